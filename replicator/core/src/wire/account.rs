//! Body of an `Account`: what a node says of its data.

use alloc::vec::Vec;

use super::cursor::{BodyError, Cursor, Put};
use crate::action::DataState;
use crate::ids::{COUNTED_MAX, Generation};
use crate::lineage::{GenerationId, HISTORY, Lineage, Tag};
use crate::reunion::Account;

const PRIMARY: u8 = 1;
const CRASHED: u8 = 2;
const LOST: u8 = 4;
const MARKED: u8 = 8;

impl Account {
    /// The payload.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let mut body = Vec::with_capacity(38 + HISTORY * 16);
        let flag = |holds: bool, bit: u8| if holds { bit } else { 0 };
        body.put_u8(self.data as u8);
        body.put_u8(
            flag(self.primary, PRIMARY)
                | flag(self.crashed, CRASHED)
                | flag(self.lost, LOST)
                | flag(self.marked, MARKED),
        );
        put_generation(&mut body, self.lineage.current);
        put_generation(&mut body, self.lineage.shared);
        body.put_count(self.lineage.former().count());
        self.lineage.former().for_each(|id| put_generation(&mut body, id));
        body
    }

    /// The account in a payload.
    ///
    /// # Errors
    /// [`BodyError`]; also where a generation of the past is none, or one has a number that nobody counts to. Of a history that is longer than this build's, the newest are taken.
    pub fn decode(body: &[u8]) -> Result<Account, BodyError> {
        let mut cursor = Cursor::new(body);
        let data = DataState::from_u8(cursor.u8()?).ok_or(BodyError::Value("data state"))?;
        let flags = cursor.u8()?;
        if flags & !(PRIMARY | CRASHED | LOST | MARKED) != 0 {
            return Err(BodyError::Value("flags of an account"));
        }
        let mut lineage = Lineage { current: generation(&mut cursor)?, ..Lineage::default() };
        lineage.shared = generation(&mut cursor)?;
        let former = cursor.list(16, GENERATIONS_MAX, "generations", generation)?;
        cursor.finish()?;
        if former.iter().any(|id| id.is_none()) {
            return Err(BodyError::Value("generation"));
        }
        for (place, id) in lineage.history.iter_mut().zip(former) {
            *place = id;
        }
        let has = |bit| flags & bit != 0;
        Ok(Account {
            lineage,
            data,
            primary: has(PRIMARY),
            crashed: has(CRASHED),
            lost: has(LOST),
            marked: has(MARKED),
        })
    }
}

/// Most former generations that are taken in.
const GENERATIONS_MAX: usize = 256;

fn put_generation(body: &mut Vec<u8>, id: GenerationId) {
    body.put_u64(id.number.0);
    body.put_u64(id.tag.0);
}

fn generation(cursor: &mut Cursor<'_>) -> Result<GenerationId, BodyError> {
    let id = GenerationId { number: Generation(cursor.u64()?), tag: Tag(cursor.u64()?) };
    if id.number.0 > COUNTED_MAX { Err(BodyError::Value("generation")) } else { Ok(id) }
}
