use super::*;
use crate::hash::to_hex;
use crate::keys::RootSecret;

fn key(n: u8) -> BundleKey {
    RootSecret::from_secret_bytes(&[n; 32])
        .unwrap()
        .bundle_key()
}

fn read(path: &Path, key: &BundleKey) -> Result<(Vec<Vec<u8>>, bool), BundleError> {
    let mut segments = Segments::open(path, key)?;
    let mut all = Vec::new();
    loop {
        match segments.next()? {
            Next::Segment(bytes) => all.push(bytes.to_vec()),
            Next::End => return Ok((all, true)),
            Next::Torn => return Ok((all, false)),
        }
    }
}

/// A file with three segments, the second one empty.
fn written(dir: &Path) -> PathBuf {
    let path = dir.join("bundle");
    let mut file = Appender::create(&dir.join("new"), &key(1)).unwrap();
    for part in [&b"one"[..], b"", b"three"] {
        file.add(part).unwrap();
    }
    file.commit().unwrap();
    file.rename(&path).unwrap();
    path
}

/// The file taken apart by the primitives alone.
#[test]
fn the_file_is_what_its_documentation_says() {
    let dir = tempfile::tempdir().unwrap();
    let path = written(dir.path());
    let bytes = std::fs::read(&path).unwrap();
    assert_eq!(&bytes[..9], b"btcr2bdl\x01");
    let mac = |tag: &[u8], data: &[u8]| {
        let mut engine = HmacEngine::<sha256::Hash>::new(key(1).as_bytes());
        engine.input(tag);
        engine.input(data);
        Hmac::<sha256::Hash>::from_engine(engine).to_byte_array()
    };
    let check = mac(b"btcr2/bundle/check/1", &bytes[..25]);
    assert_eq!(to_hex(&bytes[25..41]), to_hex(&check[..16]));
    let cipher = XChaCha20Poly1305::new(&mac(b"btcr2/bundle/seal/1", &bytes[9..25]).into());
    let length = u32::from_be_bytes(bytes[41..45].try_into().unwrap()) as usize;
    assert_eq!(length, 3 + 16);
    let nonce: [u8; 24] = bytes[45..69].try_into().unwrap();
    let aad = [&bytes[..41], &0u64.to_be_bytes()].concat();
    let payload = Payload {
        msg: &bytes[69..69 + length],
        aad: &aad,
    };
    assert_eq!(cipher.decrypt(&nonce.into(), payload).unwrap(), b"one");
    #[cfg(unix)]
    {
        use std::os::unix::fs::PermissionsExt as _;
        let mode = std::fs::metadata(&path).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
    }
}

#[test]
fn other_words_do_not_open_it() {
    let dir = tempfile::tempdir().unwrap();
    let path = written(dir.path());
    assert!(matches!(read(&path, &key(2)), Err(BundleError::WrongWords)));
    let (parts, whole) = read(&path, &key(1)).unwrap();
    assert_eq!(parts, [&b"one"[..], b"", b"three"]);
    assert!(whole);
}

/// Whatever one byte is changed to, nothing after it is believed.
#[test]
fn every_changed_byte_is_noticed() {
    let dir = tempfile::tempdir().unwrap();
    let path = written(dir.path());
    let good = std::fs::read(&path).unwrap();
    for at in 0..good.len() {
        let mut bad = good.clone();
        bad[at] ^= 0x40;
        std::fs::write(&path, &bad).unwrap();
        let outcome = read(&path, &key(1));
        let parts = match (at, outcome) {
            (0..8, Err(BundleError::NotABundle { .. })) => continue,
            (8, Err(BundleError::Version { found: 0x41 })) => continue,
            (9..HEADER, Err(BundleError::WrongWords)) => continue,
            (_, Err(BundleError::Tampered { .. })) => continue,
            // A length that leads beyond the end.
            (_, Ok((parts, false))) => parts,
            (_, other) => panic!("byte {at}: {other:?}"),
        };
        assert!(parts.len() < 3);
    }
}

#[test]
fn segments_can_not_change_places() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("bundle");
    let mut file = Appender::create(&path, &key(1)).unwrap();
    for part in [b"aaaa", b"bbbb"] {
        file.add(part).unwrap();
    }
    file.commit().unwrap();
    let bytes = std::fs::read(&path).unwrap();
    let size = (bytes.len() - HEADER) / 2;
    let (first, second) = bytes[HEADER..].split_at(size);
    let swapped = [&bytes[..HEADER], second, first].concat();
    std::fs::write(&path, swapped).unwrap();
    let outcome = read(&path, &key(1));
    assert!(matches!(outcome, Err(BundleError::Tampered { segment: 0 })));
    let without_first = [&bytes[..HEADER], second].concat();
    std::fs::write(&path, without_first).unwrap();
    let outcome = read(&path, &key(1));
    assert!(matches!(outcome, Err(BundleError::Tampered { segment: 0 })));
}

#[test]
fn a_cut_end_is_told_from_a_whole_file() {
    let dir = tempfile::tempdir().unwrap();
    let path = written(dir.path());
    let good = std::fs::read(&path).unwrap();
    let ends: Vec<usize> = {
        let mut segments = Segments::open(&path, &key(1)).unwrap();
        let mut ends = vec![HEADER];
        while let Next::Segment(_) = segments.next().unwrap() {
            ends.push(usize::try_from(segments.position().0).unwrap());
        }
        ends
    };
    for length in 0..good.len() {
        std::fs::write(&path, &good[..length]).unwrap();
        match read(&path, &key(1)) {
            Err(BundleError::NotABundle { .. }) => assert!(length < HEADER),
            Ok((parts, whole)) => {
                assert_eq!(whole, ends.contains(&length), "{length}");
                assert!(parts.len() < 3);
            }
            other => panic!("{length}: {other:?}"),
        }
    }
}

#[test]
fn what_was_not_committed_never_was() {
    let dir = tempfile::tempdir().unwrap();
    let path = written(dir.path());
    let good = std::fs::read(&path).unwrap();
    // A process died while it wrote.
    let torn = [&good[..], &[0, 0, 1]].concat();
    std::fs::write(&path, &torn).unwrap();
    let mut segments = Segments::open(&path, &key(1)).unwrap();
    while let Next::Segment(_) = segments.next().unwrap() {}
    let at = segments.position();
    assert_eq!(segments.rest(at.0), 3);
    let mut file = Appender::after(&path, segments, at).unwrap();
    assert_eq!(std::fs::read(&path).unwrap(), good);
    file.add(b"four").unwrap();
    file.roll_back().unwrap();
    assert_eq!(std::fs::read(&path).unwrap(), good);
    file.add(b"4").unwrap();
    file.commit().unwrap();
    let copy = dir.path().join("copy");
    file.add(b"on its way").unwrap();
    file.copy_to(&copy).unwrap();
    let (parts, whole) = read(&copy, &key(1)).unwrap();
    assert_eq!(
        (parts.len(), parts[3].as_slice(), whole),
        (4, &b"4"[..], true)
    );
}
