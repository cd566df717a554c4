//! The word that was probably meant.

/// The candidate with the fewest typing mistakes, if it has few enough (one per three letters, at least two) or one of both
/// begins with the other.
#[must_use]
pub fn nearest<'a>(word: &str, candidates: impl Iterator<Item = &'a str>) -> Option<&'a str> {
    let spelled = word.to_lowercase().replace('_', "-");
    let allowed = (spelled.chars().count() / 3).max(2);
    candidates
        .map(|candidate| (strsim::damerau_levenshtein(&spelled, candidate), candidate))
        .filter(|(distance, candidate)| {
            let few = *distance <= allowed && *distance < candidate.chars().count();
            few || (!spelled.is_empty()
                && (spelled.starts_with(candidate) || candidate.starts_with(&spelled)))
        })
        .min_by_key(|(distance, _)| *distance)
        .map(|(_, candidate)| candidate)
}
