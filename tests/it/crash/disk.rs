//! Disks that are full, read-only or broken, under a running agent: it says so, harms nothing and goes on once the
//! cause is gone.

use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _, chown};
use std::os::unix::process::CommandExt as _;
use std::path::Path;

use btcr2_agent::config::Home;
use serde_json::Value;

use super::evidence::check;
use super::world::{AGGREGATOR, Ending, World};
use crate::cli::binary;

/// Pages that a full disk gets more, so that it is full again at another moment.
const STEP: u64 = 5;

fn store_path(home: &Path) -> std::path::PathBuf {
    Home::locate(Some(home), None).unwrap().store_path()
}

/// The pages that the store of a home has.
fn pages(home: &Path) -> u64 {
    std::fs::metadata(store_path(home)).unwrap().size() / 4096
}

#[test]
fn a_disk_that_is_full_again_and_again_loses_nothing() {
    let mut world = World::new();
    for who in [AGGREGATOR, 1] {
        let actor = &mut world.actors[who];
        actor.pages = Some((pages(&actor.home) + 1, STEP));
    }
    world.start();
    let mut cohort = world.form();
    for _ in 0..2 {
        let ending = world.round(&mut cohort);
        assert!(matches!(ending, Ending::Confirmed(_)), "{ending:?}");
    }
    for who in [AGGREGATOR, 1] {
        let actor = &world.actors[who];
        assert!(
            actor.fulls >= 3,
            "{} was full {} times",
            actor.name,
            actor.fulls
        );
    }
    let found = check(&world, &cohort);
    assert!(found.verified >= 4, "{found:?}");
}

/// Runs the daemon until it ends, as a user for whom permissions count: root is bound by none.
fn refused(home: &Path, program: &Path, nobody: Option<u32>) -> (Option<i32>, String) {
    let mut command = binary(home);
    let envs: Vec<_> = command
        .get_envs()
        .filter_map(|(key, value)| Some((key.to_owned(), value?.to_owned())))
        .collect();
    let mut command = match nobody {
        None => command,
        Some(user) => {
            command = std::process::Command::new(program);
            command.env_clear().envs(envs).uid(user).gid(user);
            command
        }
    };
    let output = command.args(["run", "--json"]).output().unwrap();
    let both = [output.stdout, output.stderr].concat();
    (output.status.code(), String::from_utf8(both).unwrap())
}

#[test]
fn a_read_only_home_is_said_and_works_again() {
    const NOBODY: u32 = 65_534;
    let mut world = World::new();
    world.start();
    let mut cohort = world.form();
    let actor = &mut world.actors[AGGREGATOR];
    actor.stop();
    let home = actor.home.clone();
    let mode = |path: &Path, mode: u32| {
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).unwrap();
    };
    let files = || {
        std::fs::read_dir(&home)
            .unwrap()
            .map(|entry| entry.unwrap().path())
    };
    let content = std::fs::read(store_path(&home)).unwrap();

    let dir = world.dir.path().to_owned();
    let me = std::fs::metadata(&home).unwrap().uid();
    let program = dir.join("program");
    let original = env!("CARGO_BIN_EXE_btcr2-agent");
    let nobody = (me == 0).then_some(NOBODY);
    if nobody.is_some() {
        // Where everybody may execute it.
        std::fs::copy(original, &program).unwrap();
        mode(&dir, 0o711);
        for path in files().chain([home.clone()]) {
            chown(&path, nobody, nobody).unwrap();
        }
    }
    for path in files() {
        mode(&path, 0o400);
    }
    mode(&home, 0o500);
    let (code, said) = refused(&home, &program, nobody);
    assert_eq!(code, Some(1), "{said}");
    let first = said.lines().next().unwrap_or_default();
    let named = first.contains(&*home.to_string_lossy()) || first.contains("store");
    assert!(
        named && first.contains("ermission denied") || first.contains("read-only"),
        "{said}"
    );

    // Only the store.
    mode(&home, 0o700);
    for path in files() {
        mode(&path, 0o600);
    }
    mode(&store_path(&home), 0o400);
    let (code, said) = refused(&home, &program, nobody);
    assert_eq!(code, Some(1), "{said}");
    assert!(
        said.contains("read-only") && said.contains("make its file and directory writable"),
        "{said}"
    );
    assert_eq!(std::fs::read(store_path(&home)).unwrap(), content);

    for path in files().chain([home.clone()]) {
        chown(&path, Some(me), Some(me)).unwrap();
    }
    mode(&store_path(&home), 0o600);
    world.actors[AGGREGATOR].start();
    let ending = world.round(&mut cohort);
    assert!(matches!(ending, Ending::Confirmed(_)), "{ending:?}");
    check(&world, &cohort);
}

#[test]
fn a_broken_last_page_stops_the_start_and_its_repair_resumes() {
    let mut world = World::new();
    world.start();
    let mut cohort = world.form();
    assert!(matches!(world.round(&mut cohort), Ending::Confirmed(_)));
    let actor = &mut world.actors[1];
    actor.stop();
    let path = store_path(&actor.home);
    let whole = std::fs::read(&path).unwrap();
    let mut broken = whole.clone();
    let last = broken.len() - 4096;
    broken[last..].fill(0xa5);
    std::fs::write(&path, &broken).unwrap();
    for _ in 0..2 {
        let said = actor.fails();
        assert!(
            said.contains("the store is damaged") && said.contains("restore the last backup"),
            "{said}"
        );
        assert_eq!(
            std::fs::read(&path).unwrap(),
            broken,
            "what is left of it is not touched"
        );
    }
    std::fs::write(&path, &whole).unwrap();
    actor.start();
    assert!(matches!(world.round(&mut cohort), Ending::Confirmed(_)));
    let found = check(&world, &cohort);
    assert!(found.verified >= 4, "{found:?}");
}

#[test]
fn a_commit_that_was_cut_off_in_the_write_ahead_log_never_was() {
    let mut world = World::new();
    world.start();
    let mut cohort = world.form();
    for who in [AGGREGATOR, 1] {
        assert!(matches!(world.round(&mut cohort), Ending::Confirmed(_)));
        let actor = &mut world.actors[who];
        actor.kill();
        let mut wal = store_path(&actor.home).into_os_string();
        wal.push("-wal");
        let mut log = std::fs::read(&wal).unwrap();
        assert!(
            log.len() > 32 + 24 + 4096,
            "{} has nothing in it",
            actor.name
        );
        // The beginning of a frame, as the disk has it when the power goes in the middle of a commit.
        let frame = log[32..2_000].to_vec();
        log.extend_from_slice(&frame);
        std::fs::write(&wal, &log).unwrap();
        actor.start();
    }
    assert!(matches!(world.round(&mut cohort), Ending::Confirmed(_)));
    check(&world, &cohort);
}

/// The last object of a log that names an error.
pub fn error_of(log: &str) -> Option<Value> {
    let lines = log.lines();
    let mut objects = lines.filter_map(|line| serde_json::from_str::<Value>(line).ok());
    objects.rfind(|line| line["error"].is_object())
}
