//! The numbers of the last `cohort discover`, so that `cohort join 2` knows which one was meant.

use std::fs;
use std::io::{self, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;

use serde::{Deserialize, Serialize};

use crate::agent::control::request::{JoinTarget, Naddr};
use crate::agent::control::views::DiscoverView;
use crate::agent::control::{ErrorCode, Failure};
use crate::hash::CohortId;
use crate::time::UnixTime;

const FILE: &str = "discovered.json";

/// The file, with the cohorts in the order of their numbers.
#[derive(Serialize, Deserialize)]
struct Picks {
    at: UnixTime,
    cohorts: Vec<Pick>,
}

/// One numbered cohort.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pick {
    /// Its id: whatever a relay serves later, this is what was shown.
    pub cohort: CohortId,
    /// Its share link, with relay hints.
    pub naddr: String,
}

impl Pick {
    /// What to join.
    #[must_use]
    pub fn target(&self) -> JoinTarget {
        self.naddr
            .parse::<Naddr>()
            .map_or(JoinTarget::Cohort(self.cohort), JoinTarget::Naddr)
    }
}

/// Remembers what was found. Returns whether it could: without a home directory there is nowhere
/// to.
pub fn remember(home: &Path, found: &DiscoverView) -> Result<bool, Failure> {
    if !home.is_dir() {
        return Ok(false);
    }
    let picks = Picks {
        at: found.at,
        cohorts: found
            .adverts
            .iter()
            .map(|advert| Pick {
                cohort: advert.cohort,
                naddr: advert.naddr.clone(),
            })
            .collect(),
    };
    write(home, &picks).map(|()| true).map_err(|error| {
        Failure::new(
            ErrorCode::Io,
            format!("{} can not be written: {error}", home.join(FILE).display()),
        )
    })
}

/// The cohort with this number, from 1.
pub fn recall(home: &Path, number: u32) -> Result<Pick, Failure> {
    const LOOK: &str = "run `btcr2-agent cohort discover` and use a number of its first column";
    let path = home.join(FILE);
    let bytes = match fs::read(&path) {
        Ok(bytes) => bytes,
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            return Err(
                Failure::new(ErrorCode::NotFound, "no `cohort discover` was run yet").remedy(LOOK),
            );
        }
        Err(error) => {
            return Err(Failure::new(
                ErrorCode::Io,
                format!("{} can not be read: {error}", path.display()),
            ));
        }
    };
    let picks: Picks = serde_json::from_slice(&bytes).map_err(|_| {
        Failure::new(ErrorCode::Io, format!("{} is damaged", path.display())).remedy(LOOK)
    })?;
    let count = picks.cohorts.len();
    usize::try_from(number)
        .ok()
        .and_then(|number| number.checked_sub(1))
        .and_then(|index| picks.cohorts.into_iter().nth(index))
        .ok_or_else(|| {
            Failure::new(
                ErrorCode::NotFound,
                format!(
                    "the last `cohort discover` found {count} cohorts; there is no number {number}"
                ),
            )
            .remedy(LOOK)
        })
}

/// Replaces the file as a whole: a reader sees the old one or the new one.
fn write(home: &Path, picks: &Picks) -> io::Result<()> {
    let temporary = home.join(format!("{FILE}.{}.tmp", std::process::id()));
    let mut file = fs::OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .open(&temporary)?;
    file.write_all(&serde_json::to_vec(picks)?)?;
    drop(file);
    fs::rename(&temporary, home.join(FILE))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt as _;

    #[test]
    fn picks_are_numbered_from_one_and_private() {
        let home = tempfile::tempdir().unwrap();
        assert_eq!(
            recall(home.path(), 1).unwrap_err().code,
            ErrorCode::NotFound
        );
        let pick = |n: u8, naddr: &str| Pick {
            cohort: CohortId::from_bytes([n; 32]),
            naddr: naddr.to_owned(),
        };
        let picks = Picks {
            at: UnixTime(1),
            cohorts: vec![pick(1, "naddr1qqqqqqqq"), pick(2, "broken")],
        };
        write(home.path(), &picks).unwrap();
        assert!(matches!(
            recall(home.path(), 1).unwrap().target(),
            JoinTarget::Naddr(_)
        ));
        assert_eq!(
            recall(home.path(), 2).unwrap().target(),
            JoinTarget::Cohort(CohortId::from_bytes([2; 32]))
        );
        for number in [0, 3, u32::MAX] {
            assert_eq!(
                recall(home.path(), number).unwrap_err().code,
                ErrorCode::NotFound
            );
        }
        let mode = fs::metadata(home.path().join(FILE))
            .unwrap()
            .permissions()
            .mode();
        assert_eq!(mode & 0o777, 0o600);
        fs::write(home.path().join(FILE), b"{").unwrap();
        assert_eq!(recall(home.path(), 1).unwrap_err().code, ErrorCode::Io);
    }
}
