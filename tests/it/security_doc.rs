//! docs/security.md names every threat, and tests that exist.

use std::collections::BTreeSet;
use std::path::Path;

const DOCUMENT: &str = include_str!("../../docs/security.md");

/// Every name of a test function in the sources, with the file it is in.
fn functions(dir: &Path, found: &mut Vec<(String, String)>) {
    for entry in std::fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            functions(&path, found);
        } else if path.extension().is_some_and(|ending| ending == "rs") {
            let text = std::fs::read_to_string(&path).unwrap();
            let names = text
                .split("fn ")
                .skip(1)
                .filter_map(|rest| rest.split('(').next());
            let file = path.to_string_lossy().replace('\\', "/");
            found.extend(names.map(|name| (name.to_owned(), file.clone())));
        }
    }
}

#[test]
fn every_test_it_names_exists() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut found = Vec::new();
    functions(&root.join("src"), &mut found);
    functions(&root.join("tests"), &mut found);
    let named: BTreeSet<&str> = DOCUMENT
        .split('`')
        .skip(1)
        .step_by(2)
        .filter(|text| text.contains("::"))
        .collect();
    assert!(named.len() > 80, "only {} tests are named", named.len());
    for name in named {
        let (module, function) = name.rsplit_once("::").unwrap();
        // `a::b::tests::f` stands in src/a/b.rs, src/a/b/mod.rs or src/a/b/tests.rs; `a::f` in tests/it/a.rs.
        let module = module.trim_end_matches("::tests").replace("::", "/");
        let exists = found
            .iter()
            .any(|(known, file)| known == function && file.contains(&format!("/{module}")));
        assert!(exists, "docs/security.md names {name}, which no source has");
    }
}

#[test]
fn every_threat_is_there() {
    let rows: BTreeSet<&str> = DOCUMENT
        .lines()
        .filter_map(|line| line.strip_prefix("| ")?.split('|').next())
        .flat_map(|ids| ids.split(','))
        .map(str::trim)
        .collect();
    let families = [("D", 12), ("T", 32), ("N", 10)];
    for (family, last) in families {
        for number in 1..=last {
            let id = format!("{family}{number}");
            assert!(rows.contains(id.as_str()), "docs/security.md lacks {id}");
        }
    }
}
