//! Every target in one binary, for `run.sh`: the environment variable `TARGET` names it.

#![no_main]

#[path = "../entry_points/mod.rs"]
mod entry_points;

use std::sync::OnceLock;

static TARGET: OnceLock<entry_points::Target> = OnceLock::new();

libfuzzer_sys::fuzz_target!(
    init: {
        let name = std::env::var("TARGET").unwrap_or_default();
        let found = entry_points::TARGETS.iter().find(|(known, _)| *known == name);
        let (_, target) = found.unwrap_or_else(|| panic!("TARGET is {name:?}, which is none of the targets"));
        TARGET.get_or_init(|| *target);
    },
    |data: &[u8]| {
        if let Some(target) = TARGET.get() {
            target(data);
        }
    }
);
