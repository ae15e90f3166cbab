//! `backup`, `restore` and `takeover`: between a home and its copies.

use std::path::Path;

use crate::agent::control::Failure;
use crate::agent::control::views::{
    HomeBackupView, RecoveredCohortView, RestoreView, TakeoverView,
};
use crate::agent::launch;
use crate::agent::{backup, copies, recovery};
use crate::cli::output::now;

/// Copies a home, also while its agent runs.
pub fn back_up(home: &Path, out: &Path) -> Result<HomeBackupView, Failure> {
    let home = launch::home(home)?;
    let manifest = backup::back_up(&home, out, now()).map_err(launch::backup_failure)?;
    let out = std::path::absolute(out).unwrap_or_else(|_| out.to_owned());
    Ok(HomeBackupView {
        dir: out.display().to_string(),
        at: manifest.at,
        inc: manifest.inc,
        bytes: manifest.files.values().map(|file| file.bytes).sum(),
        files: manifest.files.into_keys().collect(),
        left_out: manifest.left_out,
    })
}

/// Makes a home of a backup.
pub fn restore(home: &Path, from: &Path) -> Result<RestoreView, Failure> {
    super::check_empty(home)?;
    // Before a directory is made for it.
    backup::inspect(from).map_err(launch::backup_failure)?;
    let home = launch::home(home)?;
    home.create().map_err(launch::home_failure)?;
    let lock = home.lock().map_err(launch::home_failure)?;
    let restored = backup::restore(&home, from, now()).map_err(launch::backup_failure)?;
    drop(lock);
    Ok(RestoreView {
        home: home.root().display().to_string(),
        backup_at: restored.manifest.at,
        made_by: restored.manifest.program,
        inc: restored.inc,
        dids: restored.dids,
        cohorts: restored
            .cohorts
            .into_iter()
            .map(|(cohort, role)| RecoveredCohortView {
                cohort,
                role: role.name().to_owned(),
                resumes: true,
            })
            .collect(),
    })
}

/// Makes this home the one that goes on.
pub fn takeover(home: &Path) -> Result<TakeoverView, Failure> {
    let home = launch::home(home)?;
    home.check().map_err(launch::home_failure)?;
    let lock = home.lock().map_err(launch::home_failure)?;
    if !home.store_path().exists() {
        return Err(launch::no_keystore(&home));
    }
    let config = launch::load_config(&home)?;
    let mut store = launch::open_store(&home, &config)?;
    let seen = copies::seen(&store.view()).map_err(launch::store_failure)?;
    let inc = recovery::begin_anew(&mut store, now()).map_err(launch::store_failure)?;
    drop(lock);
    Ok(TakeoverView {
        home: home.root().display().to_string(),
        inc,
        seen,
    })
}
