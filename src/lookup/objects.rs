//! Where objects come from that are named by their hash.

use std::collections::HashMap;
use std::fmt;
use std::future::{Future, ready};
use std::pin::Pin;
use std::sync::Arc;

use crate::cas::{CasError, CasReader};
use crate::hash::sha256;

/// An answer of a [`CasSource`]: the object, or that it does not have it.
pub type CasAnswer<'a> =
    Pin<Box<dyn Future<Output = Result<Option<Vec<u8>>, CasError>> + Send + 'a>>;

/// Content-addressed storage, as a lookup reads it.
///
/// It need not be believed: a resolver hashes what it gets.
pub trait CasSource: fmt::Debug + Send + Sync {
    /// The object with this SHA-256, of at most `limit` bytes; `None` if the storage does not have it.
    ///
    /// # Errors
    /// The storage could not be asked: whether it has the object is unknown.
    fn get<'a>(&'a self, hash: &'a [u8; 32], limit: usize) -> CasAnswer<'a>;
}

impl<T: CasSource + ?Sized> CasSource for Arc<T> {
    fn get<'a>(&'a self, hash: &'a [u8; 32], limit: usize) -> CasAnswer<'a> {
        (**self).get(hash, limit)
    }
}

impl CasSource for CasReader {
    fn get<'a>(&'a self, hash: &'a [u8; 32], limit: usize) -> CasAnswer<'a> {
        Box::pin(Self::get(self, hash, limit))
    }
}

/// Objects in memory.
#[derive(Clone, Default)]
pub struct Objects {
    by_hash: HashMap<[u8; 32], Vec<u8>>,
}

impl Objects {
    /// Adds an object under its hash.
    pub fn insert(&mut self, bytes: Vec<u8>) {
        self.by_hash.insert(sha256(&bytes), bytes);
    }

    /// How many there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.by_hash.len()
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.by_hash.is_empty()
    }
}

impl CasSource for Objects {
    fn get<'a>(&'a self, hash: &'a [u8; 32], limit: usize) -> CasAnswer<'a> {
        let found = self.by_hash.get(hash).filter(|bytes| bytes.len() <= limit);
        Box::pin(ready(Ok(found.cloned())))
    }
}

impl fmt::Debug for Objects {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Objects({})", self.by_hash.len())
    }
}
