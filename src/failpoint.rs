//! Places where tests kill the process: before and after everything that is stored, sent, signed or broadcast.
//!
//! They exist where `debug_assertions` are on, which is how `cargo test` builds the binary. In a release build
//! [`fail_point!`](crate::fail_point) expands to nothing and this file to no code: the variables' names are not even
//! in the program (see docs/crashes.md).
//!
//! Two variables of the environment, read once:
//!
//! - `BTCR2_FAILPOINT=name:count` ends the process when the point is reached for the count-th time, as SIGKILL
//!   would: nothing is flushed, no destructor runs, no other thread goes on.
//! - `BTCR2_FAILPOINT_RECORD=path` appends the name of each point to a file when it is reached first, so that nobody
//!   has to keep a list of them.
//!
//! And three that stand for what a test can not do to the machine it runs on, or not wait for:
//!
//! - `BTCR2_CLOCK_OFFSET=path` names a file with a number of seconds by which the clock of this process is wrong. It
//!   is read whenever the time is, so that the clock can be set while the process runs.
//! - `BTCR2_STORE_PAGES=n` lets the store have so many pages: a disk that is full at that size.
//! - `BTCR2_SNAPSHOT_AFTER=n` has snapshots taken after so many entries of a log.
//!
//! A name is `place/what`, such as `stored/round_open`: the step that handled an opening is committed, and nothing
//! that follows from it was done.

#[cfg(debug_assertions)]
use std::collections::BTreeSet;
#[cfg(debug_assertions)]
use std::io::Write as _;
#[cfg(debug_assertions)]
use std::sync::{LazyLock, Mutex, PoisonError};

/// A place where tests kill the process: `fail_point!("stored", kind)`. The second part is an expression that
/// can be displayed; neither is evaluated in a release build.
macro_rules! fail_point {
    ($place:literal) => {
        $crate::fail_point!($place, "")
    };
    ($place:literal, $what:expr) => {
        #[cfg(debug_assertions)]
        $crate::failpoint::reached($place, &$what);
    };
}
pub(crate) use fail_point;

#[cfg(debug_assertions)]
struct Armed {
    name: String,
    left: u64,
}

#[cfg(debug_assertions)]
struct Points {
    armed: Mutex<Option<Armed>>,
    record: Option<Mutex<(std::fs::File, BTreeSet<String>)>>,
}

#[cfg(debug_assertions)]
static POINTS: LazyLock<Option<Points>> = LazyLock::new(|| {
    let armed = std::env::var("BTCR2_FAILPOINT").ok().and_then(|text| {
        let (name, count) = text.rsplit_once(':')?;
        let left = count.parse().ok()?;
        let name = name.to_owned();
        Some(Armed { name, left })
    });
    let record = std::env::var_os("BTCR2_FAILPOINT_RECORD").and_then(|path| {
        let mut options = std::fs::OpenOptions::new();
        let file = options.create(true).append(true).open(path).ok()?;
        Some(Mutex::new((file, BTreeSet::new())))
    });
    (armed.is_some() || record.is_some()).then(|| Points {
        armed: Mutex::new(armed),
        record,
    })
});

/// Seconds by which the clock is wrong.
#[cfg(debug_assertions)]
pub(crate) fn clock_offset() -> i64 {
    static PATH: LazyLock<Option<std::path::PathBuf>> =
        LazyLock::new(|| Some(std::env::var_os("BTCR2_CLOCK_OFFSET")?.into()));
    let text = PATH
        .as_ref()
        .and_then(|path| std::fs::read_to_string(path).ok());
    text.and_then(|text| text.trim().parse().ok()).unwrap_or(0)
}

/// The pages that the store may have.
#[cfg(debug_assertions)]
pub(crate) fn store_pages() -> Option<u64> {
    std::env::var("BTCR2_STORE_PAGES").ok()?.parse().ok()
}

/// The entries of a log after which a snapshot is taken.
#[cfg(debug_assertions)]
pub(crate) fn snapshot_after() -> Option<u64> {
    std::env::var("BTCR2_SNAPSHOT_AFTER").ok()?.parse().ok()
}

/// A point was reached.
#[cfg(debug_assertions)]
pub(crate) fn reached(place: &str, what: &dyn std::fmt::Display) {
    let Some(points) = &*POINTS else { return };
    let what = what.to_string();
    let name = if what.is_empty() {
        place.to_owned()
    } else {
        format!("{place}/{what}")
    };
    if let Some(record) = &points.record {
        let mut record = record.lock().unwrap_or_else(PoisonError::into_inner);
        if record.1.insert(name.clone()) {
            // A test that reads the file finds out if this failed.
            let _ = record.0.write_all(format!("{name}\n").as_bytes());
        }
    }
    let mut armed = points.armed.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(armed) = armed.as_mut().filter(|armed| armed.name == name) {
        armed.left = armed.left.saturating_sub(1);
        if armed.left == 0 {
            // Not `exit`, not a panic: no handler, no destructor, no buffer gets a turn.
            std::process::abort();
        }
    }
}
