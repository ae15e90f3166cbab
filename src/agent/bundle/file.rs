//! The file of the bundle: sealed segments after a short header, to which more are added.
//!
//! | bytes | what |
//! |---|---|
//! | 8 | `btcr2bdl` |
//! | 1 | version of the format: 1 |
//! | 16 | salt, random for each file |
//! | 16 | check: the first bytes of `HMAC-SHA256(bundle key, "btcr2/bundle/check/1" ‖ all bytes before)` |
//! | any number of segments | length of the ciphertext (4 bytes, big-endian), nonce (24 bytes), ciphertext |
//!
//! A segment is XChaCha20-Poly1305 under `HMAC-SHA256(bundle key, "btcr2/bundle/seal/1" ‖ salt)`, with a random
//! nonce; its associated data are the header and its number, from 0, as 8 bytes big-endian. So segments can not be
//! exchanged, left out or moved between files. What a thief of the file can do is to cut off its end; the last
//! thing in it says of when it is.

use std::fs::{File, OpenOptions};
use std::io::{self, BufReader, Read, Seek as _, SeekFrom, Write as _};
use std::path::{Path, PathBuf};

use bitcoin::hashes::{Hash as _, HashEngine as _, Hmac, HmacEngine, sha256};
use chacha20poly1305::aead::{Aead as _, Payload};
use chacha20poly1305::{KeyInit as _, XChaCha20Poly1305};
use rand::RngCore as _;
use rand::rngs::OsRng;
use zeroize::Zeroizing;

use crate::keys::root::BundleKey;

const MAGIC: &[u8; 8] = b"btcr2bdl";

/// The version of the format.
const VERSION: u8 = 1;

/// Bytes before the check.
const CHECKED: usize = 8 + 1 + 16;

/// Bytes of the header.
pub(super) const HEADER: usize = CHECKED + 16;

const NONCE: usize = 24;

/// Longest plaintext of a segment. The writer fills them up to a quarter of a mebibyte; one row may be larger, the
/// leaf set of a cohort of a thousand seats with a thousand DIDs each the largest.
const MAX_SEGMENT: usize = 256 << 20;

/// Why a bundle can not be read or written.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum BundleError {
    /// The file can not be opened, read or written.
    #[error("cannot {action} {path}: {source}", path = .path.display())]
    Io {
        /// What was tried.
        action: &'static str,
        /// The file.
        path: PathBuf,
        /// What the operating system said.
        source: io::Error,
    },
    /// Not a bundle.
    #[error("{path} is not a bundle of btcr2-agent: give the file bundle.enc of a home, or a copy made by `key backup`", path = .path.display())]
    NotABundle {
        /// The file.
        path: PathBuf,
    },
    /// Made by a newer release.
    #[error(
        "the bundle has format {found}, this release reads format {VERSION}: use the newer btcr2-agent that wrote it"
    )]
    Version {
        /// Its version.
        found: u8,
    },
    /// The header was made with another key, or altered.
    #[error(
        "the bundle does not open with these words: check that they are of the agent that wrote it"
    )]
    WrongWords,
    /// A segment does not authenticate.
    #[error("the bundle was altered: its part {segment} does not open; use another copy")]
    Tampered {
        /// Which, from 0.
        segment: u64,
    },
    /// The file ends before what was being written was complete.
    #[error(
        "the bundle ends too early: {lost} bytes at its end are not whole; use another copy, or add --accept-truncated to do without them"
    )]
    Truncated {
        /// Bytes after the last complete state.
        lost: u64,
    },
    /// What is in it is none of this program's.
    #[error("the bundle can not be read: {0}")]
    Content(String),
    /// The store failed.
    #[error(transparent)]
    Store(#[from] crate::store::StoreError),
}

pub(super) fn io_error(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> BundleError {
    let path = path.to_owned();
    move |source| BundleError::Io {
        action,
        path,
        source,
    }
}

/// What seals the segments of one file.
pub(super) struct Seal {
    header: [u8; HEADER],
    cipher: XChaCha20Poly1305,
}

impl Seal {
    /// For a new file.
    pub(super) fn new(key: &BundleKey) -> Self {
        let mut salt = [0; 16];
        OsRng.fill_bytes(&mut salt);
        Self::with_salt(key, salt)
    }

    fn with_salt(key: &BundleKey, salt: [u8; 16]) -> Self {
        let mut header = [0; HEADER];
        let parts = MAGIC.iter().chain([&VERSION]).chain(&salt);
        for (byte, value) in header.iter_mut().zip(parts) {
            *byte = *value;
        }
        let check = check_of(key, &header);
        for (byte, value) in header.iter_mut().skip(CHECKED).zip(check) {
            *byte = value;
        }
        let key = hmac(key, b"btcr2/bundle/seal/1", &salt);
        Self {
            header,
            cipher: XChaCha20Poly1305::new((&*key).into()),
        }
    }

    /// For a file with this header.
    fn open(key: &BundleKey, header: &[u8; HEADER], path: &Path) -> Result<Self, BundleError> {
        if !header.starts_with(MAGIC) {
            return Err(BundleError::NotABundle {
                path: path.to_owned(),
            });
        }
        let version = header.get(MAGIC.len()).copied().unwrap_or(0);
        if version != VERSION {
            return Err(BundleError::Version { found: version });
        }
        let mut salt = [0; 16];
        for (byte, value) in salt.iter_mut().zip(header.iter().skip(MAGIC.len() + 1)) {
            *byte = *value;
        }
        let seal = Self::with_salt(key, salt);
        if seal.header != *header {
            return Err(BundleError::WrongWords);
        }
        Ok(seal)
    }

    pub(super) const fn header(&self) -> &[u8; HEADER] {
        &self.header
    }

    fn context(&self, segment: u64) -> Vec<u8> {
        let mut context = self.header.to_vec();
        context.extend_from_slice(&segment.to_be_bytes());
        context
    }

    /// A segment as it stands in the file.
    pub(super) fn segment(&self, number: u64, plaintext: &[u8]) -> Result<Vec<u8>, BundleError> {
        let unsealed = || BundleError::Content("a part can not be sealed".to_owned());
        let mut nonce = [0; NONCE];
        OsRng.fill_bytes(&mut nonce);
        let payload = Payload {
            msg: plaintext,
            aad: &self.context(number),
        };
        let ciphertext = self
            .cipher
            .encrypt(&nonce.into(), payload)
            .map_err(|_| unsealed())?;
        let length = u32::try_from(ciphertext.len()).map_err(|_| unsealed())?;
        let mut bytes = length.to_be_bytes().to_vec();
        bytes.extend_from_slice(&nonce);
        bytes.extend_from_slice(&ciphertext);
        Ok(bytes)
    }

    fn unseal(
        &self,
        number: u64,
        nonce: &[u8; NONCE],
        ciphertext: &[u8],
    ) -> Result<Zeroizing<Vec<u8>>, BundleError> {
        let payload = Payload {
            msg: ciphertext,
            aad: &self.context(number),
        };
        self.cipher
            .decrypt(nonce.into(), payload)
            .map(Zeroizing::new)
            .map_err(|_| BundleError::Tampered { segment: number })
    }
}

fn check_of(key: &BundleKey, header: &[u8; HEADER]) -> [u8; 16] {
    let checked: Vec<u8> = header.iter().copied().take(CHECKED).collect();
    let whole = hmac(key, b"btcr2/bundle/check/1", &checked);
    let mut check = [0; 16];
    for (byte, value) in check.iter_mut().zip(whole.iter()) {
        *byte = *value;
    }
    check
}

fn hmac(key: &BundleKey, tag: &[u8], data: &[u8]) -> Zeroizing<[u8; 32]> {
    let mut engine = HmacEngine::<sha256::Hash>::new(key.as_bytes());
    engine.input(tag);
    engine.input(data);
    Zeroizing::new(Hmac::from_engine(engine).to_byte_array())
}

/// Reads a bundle segment by segment.
pub(super) struct Segments {
    seal: Seal,
    input: BufReader<File>,
    path: PathBuf,
    /// The number of the next segment.
    next: u64,
    /// Where it begins.
    offset: u64,
    /// Bytes of the file.
    length: u64,
}

/// What comes next in a bundle.
pub(super) enum Next {
    /// A segment.
    Segment(Zeroizing<Vec<u8>>),
    /// The file ends where it may.
    End,
    /// The file ends within a segment.
    Torn,
}

impl Segments {
    pub(super) fn open(path: &Path, key: &BundleKey) -> Result<Self, BundleError> {
        let file = File::open(path).map_err(io_error("read", path))?;
        let length = file.metadata().map_err(io_error("read", path))?.len();
        let mut input = BufReader::new(file);
        let mut header = [0; HEADER];
        let whole = read_all(&mut input, &mut header).map_err(io_error("read", path))?;
        let seal = match Seal::open(key, &header, path) {
            // A prefix of a header is no bundle.
            Ok(_) | Err(_) if !whole => {
                return Err(BundleError::NotABundle {
                    path: path.to_owned(),
                });
            }
            opened => opened?,
        };
        Ok(Self {
            seal,
            input,
            path: path.to_owned(),
            next: 0,
            offset: HEADER as u64,
            length,
        })
    }

    pub(super) fn next(&mut self) -> Result<Next, BundleError> {
        if self.offset == self.length {
            return Ok(Next::End);
        }
        let failed = io_error("read", &self.path);
        let mut head = [0; 4 + NONCE];
        if !read_all(&mut self.input, &mut head).map_err(failed)? {
            return Ok(Next::Torn);
        }
        let [a, b, c, d, nonce @ ..] = head;
        let length = u32::from_be_bytes([a, b, c, d]);
        let begins = self.offset.saturating_add(head.len() as u64);
        let left = self.length.saturating_sub(begins);
        if u64::from(length) > left {
            return Ok(Next::Torn);
        }
        let bytes = usize::try_from(length).unwrap_or(usize::MAX);
        if bytes > MAX_SEGMENT {
            return Err(BundleError::Tampered { segment: self.next });
        }
        let mut ciphertext = vec![0; bytes];
        let failed = io_error("read", &self.path);
        if !read_all(&mut self.input, &mut ciphertext).map_err(failed)? {
            return Ok(Next::Torn);
        }
        let plaintext = self.seal.unseal(self.next, &nonce, &ciphertext)?;
        self.next = self.next.saturating_add(1);
        self.offset = begins.saturating_add(u64::from(length));
        Ok(Next::Segment(plaintext))
    }

    /// Where the next segment begins, and its number.
    pub(super) const fn position(&self) -> (u64, u64) {
        (self.offset, self.next)
    }

    /// Bytes after this offset.
    pub(super) const fn rest(&self, offset: u64) -> u64 {
        self.length.saturating_sub(offset)
    }

    pub(super) fn into_seal(self) -> Seal {
        self.seal
    }
}

/// Fills the buffer; false if the input ends before.
fn read_all(input: &mut impl Read, buffer: &mut [u8]) -> io::Result<bool> {
    match input.read_exact(buffer) {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => Ok(false),
        Err(error) => Err(error),
    }
}

/// Adds segments to a bundle.
pub(super) struct Appender {
    seal: Seal,
    file: File,
    path: PathBuf,
    /// Where the next segment goes, and its number: after the last complete state.
    at: (u64, u64),
    /// What has been written after that.
    ahead: (u64, u64),
}

impl Appender {
    /// A new file beside `path`, for its owner only; see [`Appender::rename`].
    pub(super) fn create(path: &Path, key: &BundleKey) -> Result<Self, BundleError> {
        let failed = |error| io_error("write", path)(error);
        match std::fs::remove_file(path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(failed(error)),
            _ => {}
        }
        let mut options = OpenOptions::new();
        options.read(true).write(true).create_new(true);
        private(&mut options);
        let mut file = options.open(path).map_err(failed)?;
        let seal = Seal::new(key);
        file.write_all(seal.header()).map_err(failed)?;
        let at = (HEADER as u64, 0);
        Ok(Self {
            seal,
            file,
            path: path.to_owned(),
            at,
            ahead: at,
        })
    }

    /// The file that was read by `segments`, from this position on; what is after it is cut off.
    pub(super) fn after(
        path: &Path,
        segments: Segments,
        at: (u64, u64),
    ) -> Result<Self, BundleError> {
        let failed = |error| io_error("write", path)(error);
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .open(path)
            .map_err(failed)?;
        file.set_len(at.0).map_err(failed)?;
        let mut appender = Self {
            seal: segments.into_seal(),
            file,
            path: path.to_owned(),
            at,
            ahead: at,
        };
        appender.file.seek(SeekFrom::End(0)).map_err(failed)?;
        Ok(appender)
    }

    /// Adds a segment. It counts once [`Appender::commit`] has returned.
    pub(super) fn add(&mut self, plaintext: &[u8]) -> Result<(), BundleError> {
        let (offset, number) = self.ahead;
        let bytes = self.seal.segment(number, plaintext)?;
        self.file
            .write_all(&bytes)
            .map_err(io_error("write", &self.path))?;
        let length = bytes.len() as u64;
        self.ahead = (offset.saturating_add(length), number.saturating_add(1));
        Ok(())
    }

    /// What was added is on the disk.
    pub(super) fn commit(&mut self) -> Result<(), BundleError> {
        self.file
            .sync_all()
            .map_err(io_error("write", &self.path))?;
        self.at = self.ahead;
        Ok(())
    }

    /// What was added and not committed never was.
    pub(super) fn roll_back(&mut self) -> Result<(), BundleError> {
        let failed = |error| io_error("write", &self.path)(error);
        self.file.set_len(self.at.0).map_err(failed)?;
        self.file.seek(SeekFrom::Start(self.at.0)).map_err(failed)?;
        self.ahead = self.at;
        Ok(())
    }

    /// Puts the file in its place, whole.
    pub(super) fn rename(&mut self, path: &Path) -> Result<(), BundleError> {
        let failed = |error| io_error("write", path)(error);
        std::fs::rename(&self.path, path).map_err(failed)?;
        sync_dir(path).map_err(failed)?;
        self.path = path.to_owned();
        Ok(())
    }

    /// Bytes that count.
    pub(super) const fn length(&self) -> u64 {
        self.at.0
    }

    /// Copies what counts into a file of its owner only, whole or not at all.
    pub(super) fn copy_to(&mut self, out: &Path) -> Result<(), BundleError> {
        let mut beside = out.as_os_str().to_owned();
        beside.push(format!(".{}.new", std::process::id()));
        let beside = PathBuf::from(beside);
        let copy = || -> io::Result<()> {
            match std::fs::remove_file(&beside) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                _ => {}
            }
            let mut options = OpenOptions::new();
            options.write(true).create_new(true);
            private(&mut options);
            let mut target = options.open(&beside)?;
            let source = File::open(&self.path)?;
            io::copy(&mut source.take(self.at.0), &mut target)?;
            target.sync_all()?;
            std::fs::rename(&beside, out)?;
            sync_dir(out)
        };
        copy().map_err(|error| {
            let _ = std::fs::remove_file(&beside);
            io_error("write", out)(error)
        })
    }
}

#[cfg(unix)]
fn private(options: &mut OpenOptions) {
    use std::os::unix::fs::OpenOptionsExt as _;
    options.mode(0o600);
}

#[cfg(not(unix))]
fn private(_: &mut OpenOptions) {}

/// Makes a rename durable.
#[cfg(unix)]
fn sync_dir(path: &Path) -> io::Result<()> {
    match path.parent().filter(|dir| !dir.as_os_str().is_empty()) {
        Some(dir) => File::open(dir)?.sync_all(),
        None => File::open(".")?.sync_all(),
    }
}

#[cfg(not(unix))]
fn sync_dir(_: &Path) -> io::Result<()> {
    Ok(())
}

#[cfg(test)]
mod tests;
