//! The encrypted bundle: what the recovery words do not restore, in a file beside the store (DESIGN §3).
//!
//! The store is what counts: a proof is durable there before the partial signature that needs it exists. The bundle
//! follows within seconds, written by a thread of its own from a second connection, and holds what a new machine
//! needs besides the words: genesis documents, signed updates, proofs and announcements, DIDs and the numbers of
//! their keys, terms of cohorts, and the log of this agent's memberships, out of which their state is rebuilt.
//!
//! It only grows. What is never changed (artifacts, log) is added once; of the rest (a DID's document, an update's
//! state) a changed row is added again, and the last one counts. When more than a third of the file is superseded it
//! is written anew, beside the old one and then in its place. Everything written at one time ends with a
//! [`Mark`]: a file that was cut off within counts up to the mark before.

mod file;
mod keeper;

use std::path::Path;

use serde::{Deserialize, Serialize};

use file::{Next, Segments};
use zeroize::Zeroizing;

pub use file::BundleError;
pub use keeper::{BundleKeeper, BundleState, write_bundle};

use crate::keys::NostrKey;
use crate::keys::root::BundleKey;
use crate::time::UnixTime;

/// Plaintext of a segment, unless one row is larger.
const SEGMENT_BYTES: usize = 256 << 10;

/// One line of a segment.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
enum Line {
    /// A row, in place of the one under the same key.
    Row {
        /// Its table.
        table: String,
        /// Its key.
        key: String,
        /// The row as JSON.
        row: String,
    },
    /// The row under this key is gone.
    Gone {
        /// Its table.
        table: String,
        /// Its key.
        key: String,
    },
    /// Everything before is one state.
    Mark(Mark),
}

/// The end of what was written at one time.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Mark {
    /// When it was written.
    pub at: UnixTime,
    /// The schema of the store whose rows these are.
    pub schema: u32,
    /// The incarnation of the store.
    pub inc: u64,
    /// The agent.
    pub identity: NostrKey,
    /// Of each table to which rows are only added: the last number, and the SHA-256 of its row.
    appended: Vec<Tail>,
}

/// Up to where a table is in the bundle.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Tail {
    table: String,
    number: i64,
    /// Base64url of the hash of the row's JSON.
    hash: crate::hash::DocumentHash,
}

/// What a bundle says, in the order in which it says it.
pub trait BundleReader {
    /// A row, or with `None` that the row under this key is gone.
    ///
    /// # Errors
    /// Ends the reading.
    fn row(&mut self, table: &str, key: &str, row: Option<&str>) -> Result<(), BundleError>;
}

/// How a bundle ends.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BundleEnd {
    /// The last state that is whole.
    pub mark: Mark,
    /// Bytes after it that are not; 0 in a file that was closed.
    pub lost: u64,
}

/// The last whole state of a bundle, without its rows. The whole file is read and authenticated.
///
/// # Errors
/// [`BundleError`] if the file is none, was altered, or does not open with this key. A file that ends within a
/// write is [`BundleError::Truncated`] only if no state of it is whole.
pub fn inspect_bundle(path: &Path, key: &BundleKey) -> Result<BundleEnd, BundleError> {
    let mut segments = Segments::open(path, key)?;
    let mut last = None;
    while let Next::Segment(bytes) = segments.next()? {
        if let Some(mark) = last_mark(&bytes)? {
            last = Some((mark, segments.position().0));
        }
    }
    let Some((mark, end)) = last else {
        return Err(BundleError::Truncated {
            lost: segments.rest(file::HEADER as u64),
        });
    };
    Ok(BundleEnd {
        mark,
        lost: segments.rest(end),
    })
}

/// Hands every row of a bundle up to the mark `end` to `reader`.
///
/// # Errors
/// [`BundleError`], also of the reader.
pub fn read_bundle(
    path: &Path,
    key: &BundleKey,
    end: &BundleEnd,
    reader: &mut impl BundleReader,
) -> Result<(), BundleError> {
    let mut segments = Segments::open(path, key)?;
    while let Next::Segment(bytes) = segments.next()? {
        for line in lines(&bytes) {
            match line? {
                Line::Row { table, key, row } => reader.row(&table, &key, Some(&row))?,
                Line::Gone { table, key } => reader.row(&table, &key, None)?,
                Line::Mark(mark)
                    if mark == end.mark && segments.rest(segments.position().0) <= end.lost =>
                {
                    return Ok(());
                }
                Line::Mark(_) => {}
            }
        }
    }
    Err(BundleError::Content(
        "it changed while it was read".to_owned(),
    ))
}

fn lines(bytes: &[u8]) -> impl Iterator<Item = Result<Line, BundleError>> {
    bytes
        .split(|byte| *byte == b'\n')
        .filter(|line| !line.is_empty())
        .map(|line| {
            // serde's words may quote the text: what is in the bundle does not belong into an error.
            serde_json::from_slice(line).map_err(|error| {
                let at = error.column();
                BundleError::Content(format!("a line is not one of this program's (column {at})"))
            })
        })
}

/// The mark that ends a segment, if one does.
fn last_mark(bytes: &Zeroizing<Vec<u8>>) -> Result<Option<Mark>, BundleError> {
    let last = bytes
        .split(|byte| *byte == b'\n')
        .rfind(|line| !line.is_empty());
    match last.filter(|line| line.starts_with(b"{\"mark\"")) {
        None => Ok(None),
        Some(line) => match lines(line).next().transpose()? {
            Some(Line::Mark(mark)) => Ok(Some(mark)),
            _ => Ok(None),
        },
    }
}
