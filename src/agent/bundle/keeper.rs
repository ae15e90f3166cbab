//! Keeping the bundle up to date: a thread that follows the store.

use std::collections::{HashMap, HashSet};
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::thread::JoinHandle;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use tokio::sync::oneshot;

use super::file::{Appender, BundleError, Next, Segments, io_error};
use super::{Line, Mark, SEGMENT_BYTES, Tail, lines};
use crate::agent::options::Clock;
use crate::fail_point;
use crate::hash::{DocumentHash, sha256};
use crate::keys::NostrKey;
use crate::keys::root::BundleKey;
use crate::store::{DUMP_TABLES, DumpRow, Store, View, dump_table};
use crate::time::UnixTime;

/// How often the store is looked at. A burst of steps is written once.
const LOOK_EVERY: Duration = Duration::from_secs(2);

/// Superseded bytes below which a file is not written anew, however little else is in it.
const LEAST_SUPERSEDED: u64 = 1 << 20;

/// Rows that may be in the file and gone from the store, of each table, as long as there are no more than are in the
/// store still: the log is shortened behind snapshots.
const LEAST_GONE: u64 = 2_000;

/// What is in the bundle.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct BundleState {
    /// When it was last written.
    pub at: UnixTime,
    /// Bytes of the file.
    pub bytes: u64,
    /// DIDs in it.
    pub dids: u64,
    /// Cohorts in it, in whatever role.
    pub cohorts: u64,
    /// Artifacts in it, up to the number of the last one.
    pub artifacts: u64,
}

enum Command {
    /// Write what is new; then copy the file if a place is given.
    Write {
        copy_to: Option<PathBuf>,
        answer: oneshot::Sender<Result<BundleState, BundleError>>,
    },
    Stop,
}

/// The thread that keeps a bundle up to date. Dropping it writes what is new a last time.
#[derive(Debug)]
pub struct BundleKeeper {
    commands: Sender<Command>,
    thread: Option<JoinHandle<()>>,
}

impl BundleKeeper {
    /// Starts to keep the bundle of the store at `store`.
    ///
    /// # Errors
    /// [`BundleError`] if the store can not be read. A bundle that can not be written is no reason not to start: it
    /// is tried again and again.
    pub fn start(
        path: &Path,
        store: &Path,
        key: BundleKey,
        identity: NostrKey,
        clock: Clock,
    ) -> Result<Self, BundleError> {
        let reader = Store::open_read_only(store)?;
        let (commands, receiver) = channel();
        let mut work = Work {
            path: path.to_owned(),
            store: reader,
            key,
            identity,
            clock,
            open: None,
            seen: None,
        };
        let thread = std::thread::Builder::new()
            .name("bundle".to_owned())
            .spawn(move || work.run(&receiver))
            .map_err(io_error("write", path))?;
        Ok(Self {
            commands,
            thread: Some(thread),
        })
    }

    /// Writes what is new now, and copies the file to `copy_to` if that is given. The answer comes when it is on the
    /// disk.
    #[must_use]
    pub fn write(
        &self,
        copy_to: Option<PathBuf>,
    ) -> oneshot::Receiver<Result<BundleState, BundleError>> {
        let (answer, answered) = oneshot::channel();
        // If the thread is gone, the receiver says so.
        let _ = self.commands.send(Command::Write { copy_to, answer });
        answered
    }
}

impl Drop for BundleKeeper {
    fn drop(&mut self) {
        let _ = self.commands.send(Command::Stop);
        if let Some(thread) = self.thread.take() {
            // Nobody else may write to the file before it has finished.
            let _ = thread.join();
        }
    }
}

/// Writes the bundle of a store once, for an agent that does not run.
///
/// # Errors
/// [`BundleError`].
pub fn write_bundle(
    path: &Path,
    store: &Path,
    key: BundleKey,
    identity: NostrKey,
    clock: Clock,
    copy_to: Option<&Path>,
) -> Result<BundleState, BundleError> {
    let mut work = Work {
        path: path.to_owned(),
        store: Store::open_read_only(store)?,
        key,
        identity,
        clock,
        open: None,
        seen: None,
    };
    work.write(copy_to)
}

struct Work {
    path: PathBuf,
    store: Store,
    key: BundleKey,
    identity: NostrKey,
    clock: Clock,
    open: Option<Open>,
    /// The version of the data that is in the bundle.
    seen: Option<i64>,
}

/// The file, and what is in it.
struct Open {
    file: Appender,
    state: Written,
}

/// What is in the file.
#[derive(Default)]
struct Written {
    /// Hash and length of the last line under each key, by table.
    latest: HashMap<(&'static str, String), ([u8; 32], u64)>,
    /// The last number of each table to which rows are only added, and the hash of its row.
    appended: HashMap<&'static str, (i64, [u8; 32])>,
    /// How many rows of each of these there are.
    rows: HashMap<&'static str, u64>,
    live: u64,
    superseded: u64,
    at: UnixTime,
}

/// What a write changes in memory once it is on the disk.
enum Change {
    Latest(&'static str, String, Option<([u8; 32], u64)>),
    Appended(&'static str, i64, [u8; 32], u64),
}

impl Work {
    fn run(&mut self, commands: &Receiver<Command>) {
        self.follow();
        loop {
            match commands.recv_timeout(LOOK_EVERY) {
                Ok(Command::Write { copy_to, answer }) => {
                    let _ = answer.send(self.write(copy_to.as_deref()));
                }
                Err(RecvTimeoutError::Timeout) => self.follow(),
                Ok(Command::Stop) | Err(RecvTimeoutError::Disconnected) => {
                    self.follow();
                    return;
                }
            }
        }
    }

    /// Writes if the store has changed.
    fn follow(&mut self) {
        let version = self.store.data_version().ok();
        if version.is_some() && version == self.seen {
            return;
        }
        if let Err(error) = self.write(None) {
            tracing::error!(%error, "the bundle is not up to date");
        }
    }

    fn write(&mut self, copy_to: Option<&Path>) -> Result<BundleState, BundleError> {
        // Read before the rows: what is committed meanwhile is found again.
        let version = self.store.data_version()?;
        let mut open = match self.open.take() {
            Some(open) => open,
            None => self.open()?,
        };
        let written = self.bring_up_to_date(&mut open);
        if written.is_err() {
            // The next time everything is read again.
            let _ = open.file.roll_back();
            written?;
        }
        if open.state.superseded > LEAST_SUPERSEDED.max(open.state.live / 2)
            || self.has_much_that_is_gone(&open.state)?
        {
            open = self.write_anew()?;
        }
        self.seen = Some(version);
        if let Some(out) = copy_to {
            open.file.copy_to(out)?;
        }
        let state = open.state.describe(open.file.length());
        self.open = Some(open);
        Ok(state)
    }

    /// Whether half of the rows of a table, and many, are not in the store any more.
    fn has_much_that_is_gone(&self, state: &Written) -> Result<bool, BundleError> {
        for (name, written) in &state.rows {
            if *written <= LEAST_GONE {
                continue;
            }
            let table = dump_table(name).ok_or_else(|| unknown(name))?;
            let there = self.store.view().dump_count(table)?;
            if written.saturating_sub(there) > LEAST_GONE.max(there) {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// Opens the file that is there, if it belongs to this store; else begins another one.
    fn open(&mut self) -> Result<Open, BundleError> {
        if !self.path.exists() {
            return self.write_anew();
        }
        match Open::read(&self.path, &self.key) {
            Ok(open) if self.is_of_this_store(&open)? => Ok(open),
            Ok(_) => {
                tracing::warn!(
                    "the bundle is of another state of this store, and is kept beside the new one"
                );
                self.set_aside()
            }
            // Created, and never written to.
            Err(BundleError::Truncated { .. }) => self.write_anew(),
            Err(error @ (BundleError::Io { .. } | BundleError::Store(_))) => Err(error),
            Err(error) => {
                tracing::warn!(%error, "the bundle is kept beside a new one");
                self.set_aside()
            }
        }
    }

    /// It may be all that is left of something: it is never overwritten by what does not contain it.
    fn set_aside(&mut self) -> Result<Open, BundleError> {
        let mut beside = self.path.as_os_str().to_owned();
        beside.push(format!(".{}.old", (self.clock)().0));
        let beside = PathBuf::from(beside);
        std::fs::rename(&self.path, &beside).map_err(io_error("rename", &self.path))?;
        self.write_anew()
    }

    /// Whether the store has the rows at which the file ends.
    fn is_of_this_store(&self, open: &Open) -> Result<bool, BundleError> {
        for (name, (number, hash)) in &open.state.appended {
            let Some(table) = dump_table(name) else {
                return Ok(false);
            };
            let row = self.store.view().dump_one(table, *number)?;
            if row.is_none_or(|row| sha256(row.json.as_bytes()) != *hash) {
                return Ok(false);
            }
        }
        Ok(true)
    }

    fn write_anew(&mut self) -> Result<Open, BundleError> {
        let mut beside = self.path.as_os_str().to_owned();
        beside.push(".new");
        let file = Appender::create(Path::new(&beside), &self.key)?;
        let mut open = Open {
            file,
            state: Written::default(),
        };
        self.bring_up_to_date(&mut open)?;
        fail_point!("before", "bundle_rename");
        open.file.rename(&self.path)?;
        fail_point!("after", "bundle_rename");
        Ok(open)
    }

    /// Adds what the store has and the file has not.
    fn bring_up_to_date(&mut self, open: &mut Open) -> Result<(), BundleError> {
        let (identity, at) = (self.identity, (self.clock)());
        let Open { file, state } = open;
        let mut changes: Vec<Change> = Vec::new();
        let mark = self.store.snapshot::<_, BundleError>(|view| {
            let mut batch = Batch {
                file,
                text: Vec::new(),
            };
            for table in DUMP_TABLES {
                let name = table.name;
                let after = state.appended.get(name).map_or(0, |(number, _)| *number);
                if table.fixed && state.has_all(name, &view.dump_keys(table)?) {
                    // Snapshots are large: none is read to be compared.
                    continue;
                }
                let mut there = HashSet::new();
                view.dump::<BundleError>(table, after, |row| {
                    let hash = sha256(row.json.as_bytes());
                    if table.appended {
                        let number = row.number;
                        let length = batch.row(name, row)?;
                        changes.push(Change::Appended(name, number, hash, length));
                        return Ok(());
                    }
                    let key = (name, row.key.clone());
                    if state
                        .latest
                        .get(&key)
                        .is_none_or(|(known, _)| *known != hash)
                    {
                        let length = batch.row(name, row)?;
                        changes.push(Change::Latest(name, key.1.clone(), Some((hash, length))));
                    }
                    there.insert(key.1);
                    Ok(())
                })?;
                let gone: Vec<String> = state
                    .latest
                    .keys()
                    .filter(|(of, key)| *of == name && !there.contains(key))
                    .map(|(_, key)| key.clone())
                    .collect();
                for key in gone {
                    batch.line(&Line::Gone {
                        table: name.to_owned(),
                        key: key.clone(),
                    })?;
                    changes.push(Change::Latest(name, key, None));
                }
            }
            if changes.is_empty() && state.at != UnixTime(0) {
                return Ok(None);
            }
            let mark = mark_of(view, state, &changes, identity, at)?;
            batch.line(&Line::Mark(mark.clone()))?;
            batch.flush()?;
            Ok(Some(mark))
        })?;
        let Some(mark) = mark else {
            return Ok(());
        };
        fail_point!("before", "bundle_commit");
        file.commit()?;
        fail_point!("after", "bundle_commit");
        for change in changes {
            state.apply(change);
        }
        state.at = mark.at;
        Ok(())
    }
}

/// Lines on their way into segments.
struct Batch<'f> {
    file: &'f mut Appender,
    text: Vec<u8>,
}

impl Batch<'_> {
    fn row(&mut self, table: &str, row: DumpRow) -> Result<u64, BundleError> {
        self.line(&Line::Row {
            table: table.to_owned(),
            key: row.key,
            row: row.json,
        })
    }

    /// Adds a line; gives its length.
    fn line(&mut self, line: &Line) -> Result<u64, BundleError> {
        let json = serde_json::to_vec(line)
            .map_err(|_| BundleError::Content("a row has no JSON".to_owned()))?;
        if self.text.len().saturating_add(json.len()) > SEGMENT_BYTES {
            self.flush()?;
        }
        self.text.extend_from_slice(&json);
        self.text.push(b'\n');
        Ok(json.len() as u64)
    }

    fn flush(&mut self) -> Result<(), BundleError> {
        if !self.text.is_empty() {
            self.file.add(&self.text)?;
            self.text.clear();
        }
        Ok(())
    }
}

fn mark_of(
    view: &View<'_>,
    state: &Written,
    changes: &[Change],
    identity: NostrKey,
    at: UnixTime,
) -> Result<Mark, BundleError> {
    let mut tails: HashMap<&'static str, (i64, [u8; 32])> = state.appended.clone();
    for change in changes {
        if let Change::Appended(table, number, hash, _) = change {
            tails.insert(*table, (*number, *hash));
        }
    }
    let mut appended: Vec<Tail> = tails
        .into_iter()
        .map(|(table, (number, hash))| Tail {
            table: table.to_owned(),
            number,
            hash: DocumentHash::from_bytes(hash),
        })
        .collect();
    appended.sort_by(|a, b| a.table.cmp(&b.table));
    Ok(Mark {
        at,
        schema: view.schema_version()?,
        inc: view.incarnation()?,
        identity,
        appended,
    })
}

impl Open {
    /// Reads a file from its beginning to its last mark.
    fn read(path: &Path, key: &BundleKey) -> Result<Self, BundleError> {
        let mut segments = Segments::open(path, key)?;
        let mut state = Written::default();
        let mut pending: Vec<Change> = Vec::new();
        let mut end = None;
        while let Next::Segment(bytes) = segments.next()? {
            for line in lines(&bytes) {
                match line? {
                    Line::Row { table, key, row } => {
                        let known = dump_table(&table).ok_or_else(|| unknown(&table))?;
                        let length = row.len() as u64;
                        let hash = sha256(row.as_bytes());
                        pending.push(if known.appended {
                            Change::Appended(known.name, 0, hash, length)
                        } else {
                            Change::Latest(known.name, key, Some((hash, length)))
                        });
                    }
                    Line::Gone { table, key } => {
                        let known = dump_table(&table).ok_or_else(|| unknown(&table))?;
                        pending.push(Change::Latest(known.name, key, None));
                    }
                    Line::Mark(mark) => {
                        for change in pending.drain(..) {
                            state.apply(change);
                        }
                        for tail in &mark.appended {
                            let known =
                                dump_table(&tail.table).ok_or_else(|| unknown(&tail.table))?;
                            let tail = (tail.number, tail.hash.to_bytes());
                            state.appended.insert(known.name, tail);
                        }
                        state.at = mark.at;
                        end = Some(segments.position());
                    }
                }
            }
        }
        let Some(end) = end else {
            return Err(BundleError::Truncated {
                lost: segments.rest(0),
            });
        };
        if segments.rest(end.0) > 0 {
            tracing::warn!(
                bytes = segments.rest(end.0),
                "the bundle ended within a write, which is done again"
            );
        }
        Ok(Self {
            file: Appender::after(path, segments, end)?,
            state,
        })
    }
}

fn unknown(table: &str) -> BundleError {
    BundleError::Content(format!(
        "rows of a table {table:?} that this release does not know"
    ))
}

impl Written {
    /// Whether the rows of a table in the file are those under these keys.
    fn has_all(&self, table: &'static str, keys: &[String]) -> bool {
        let there = self.latest.keys().filter(|(of, _)| *of == table).count();
        let has = |key: &String| self.latest.contains_key(&(table, key.clone()));
        there == keys.len() && keys.iter().all(has)
    }

    fn apply(&mut self, change: Change) {
        match change {
            Change::Appended(table, number, hash, length) => {
                self.appended.insert(table, (number, hash));
                let rows = self.rows.entry(table).or_default();
                *rows = rows.saturating_add(1);
                self.live = self.live.saturating_add(length);
            }
            Change::Latest(table, key, value) => {
                let length = value.map_or(0, |(_, length)| length);
                let former = match value {
                    Some(value) => self.latest.insert((table, key), value),
                    None => self.latest.remove(&(table, key)),
                };
                let former = former.map_or(0, |(_, length)| length);
                self.superseded = self.superseded.saturating_add(former);
                self.live = self.live.saturating_sub(former).saturating_add(length);
            }
        }
    }

    fn describe(&self, bytes: u64) -> BundleState {
        let rows = |name: &str| {
            let of = self.latest.keys().filter(|(table, _)| *table == name);
            of.count() as u64
        };
        let artifacts = self.appended.get("artifacts");
        BundleState {
            at: self.at,
            bytes,
            dids: rows("dids"),
            cohorts: rows("cohorts"),
            artifacts: artifacts.map_or(0, |(number, _)| u64::try_from(*number).unwrap_or(0)),
        }
    }
}

#[cfg(test)]
mod tests;
