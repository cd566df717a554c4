//! Making a sequence that leads to a difference as short as can be.

/// The shortest part of `steps` found that still `fails`: larger pieces are left out first, then smaller ones, down to single steps.
///
/// # Errors
/// Those of `fails`.
pub fn shrink<T: Clone, E>(steps: &[T], mut fails: impl FnMut(&[T]) -> Result<bool, E>) -> Result<Vec<T>, E> {
    let mut left = steps.to_vec();
    let mut piece = left.len().div_ceil(2).max(1);
    loop {
        let mut at = 0;
        let mut shorter = false;
        while at < left.len() {
            let end = (at + piece).min(left.len());
            let without = [&left[..at], &left[end..]].concat();
            if fails(&without)? {
                left = without;
                shorter = true;
            } else {
                at = end;
            }
        }
        match piece {
            1 if !shorter => return Ok(left),
            1 => (),
            _ => piece = piece.div_ceil(2),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_is_needed_is_left() {
        let steps: Vec<u32> = (0..200).collect();
        let needs = |part: &[u32]| Ok::<_, ()>([17, 90, 91].iter().all(|number| part.contains(number)));
        assert_eq!(shrink(&steps, needs), Ok(vec![17, 90, 91]));
        assert_eq!(shrink(&steps, |_| Ok::<_, ()>(true)), Ok(vec![]));
    }
}
