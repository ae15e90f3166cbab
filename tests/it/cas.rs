//! Content-addressed storage, against a server on loopback that speaks IPFS's two HTTP interfaces.

pub mod ipfs;
mod publishing;
mod reading;

/// The rows of the CID vector: the content and its address.
fn vector() -> Vec<(Vec<u8>, String)> {
    let vector: serde_json::Value =
        serde_json::from_str(include_str!("../vectors/cid.json")).unwrap();
    let rows = vector["rows"].as_array().unwrap().iter();
    let text = |row: &serde_json::Value, key: &str| row[key].as_str().unwrap().to_owned();
    let rows: Vec<_> = rows
        .map(|row| (text(row, "contentUtf8").into_bytes(), text(row, "cid")))
        .collect();
    assert_eq!(rows.len(), 2);
    rows
}
