//! No secret of any agent reaches a store file or the log: everything is searched, byte by byte.

use std::io::Write;
use std::sync::{Arc, Mutex};

use btcr2_agent::hash::{CohortId, to_base64url, to_hex};
use btcr2_agent::keys::{OwnKey, RootSecret, keystore};
use btcr2_agent::network::Network;
use btcr2_agent::protocol::terms::CohortBeacon;

use super::play::Play;

/// Collects what is logged.
#[derive(Clone, Default)]
struct Log(Arc<Mutex<Vec<u8>>>);

impl Write for Log {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

/// Bytes that must be nowhere, and what they are.
struct Secret {
    name: String,
    forms: Vec<Vec<u8>>,
}

impl Secret {
    /// 32 bytes, in every form somebody might write them down in.
    fn bytes(name: String, bytes: &[u8; 32]) -> Self {
        use base64::Engine as _;
        use base64::engine::general_purpose::STANDARD_NO_PAD;
        let hex = to_hex(bytes);
        let list = format!("{bytes:?}");
        let forms = vec![
            bytes.to_vec(),
            hex.to_uppercase().into_bytes(),
            hex.into_bytes(),
            to_base64url(bytes).into_bytes(),
            STANDARD_NO_PAD.encode(bytes).into_bytes(),
            list.as_bytes()[1..list.len() - 1].to_vec(),
        ];
        Self { name, forms }
    }

    fn text(name: String, text: &str) -> Self {
        let forms = vec![text.as_bytes().to_vec(), text.to_uppercase().into_bytes()];
        Self { name, forms }
    }
}

/// Many secrets to be looked for at once, by their first four bytes.
struct Search<'s>(std::collections::HashMap<[u8; 4], Vec<(&'s Secret, &'s [u8])>>);

impl<'s> Search<'s> {
    fn new(secrets: &'s [Secret]) -> Self {
        let mut starts = std::collections::HashMap::<_, Vec<_>>::new();
        for secret in secrets {
            for form in &secret.forms {
                let start = *form.first_chunk().unwrap();
                starts.entry(start).or_default().push((secret, &**form));
            }
        }
        Self(starts)
    }

    fn find(&self, haystack: &[u8]) -> Option<&'s str> {
        (0..haystack.len()).find_map(|at| {
            let rest = &haystack[at..];
            let candidates = self.0.get(rest.first_chunk::<4>()?)?;
            let found = candidates.iter().find(|(_, form)| rest.starts_with(form));
            found.map(|(secret, _)| secret.name.as_str())
        })
    }
}

/// A key and its negation: the same secret.
fn key(name: &str, key: &OwnKey) -> [Secret; 2] {
    let secret = key.keypair().secret_key();
    [
        Secret::bytes(name.to_owned(), &secret.secret_bytes()),
        Secret::bytes(format!("{name}, negated"), &secret.negate().secret_bytes()),
    ]
}

fn secrets_of(name: &str, root: &RootSecret, cohort: CohortId) -> Vec<Secret> {
    let words = root.words().unwrap();
    let list: Vec<&str> = words.expose().split(' ').collect();
    let mut secrets: Vec<Secret> = list
        .windows(3)
        .map(|run| Secret::text(format!("{name}'s words"), &run.join(" ")))
        .collect();
    secrets.push(Secret::text(format!("{name}'s nsec"), root.nsec().expose()));
    secrets.extend(key(&format!("{name}'s identity"), &root.identity()));
    secrets.extend(key(&format!("{name}'s seat"), &root.seat(&cohort)));
    secrets.extend(key(&format!("{name}'s channel"), &root.channel(&cohort)));
    for counter in 0..3 {
        let did = root.did_key(Network::Regtest, counter).unwrap();
        secrets.extend(key(&format!("{name}'s DID key {counter}"), &did));
    }
    let bundle = root.bundle_key();
    secrets.push(Secret::bytes(
        format!("{name}'s bundle key"),
        bundle.as_bytes(),
    ));
    secrets
}

#[tokio::test]
async fn no_secret_reaches_store_or_log() {
    // One thread: its subscriber hears every task.
    let log = Log::default();
    let writer = log.clone();
    let subscriber = tracing_subscriber::fmt()
        .with_max_level(tracing::Level::TRACE)
        .with_ansi(false)
        .with_writer(move || writer.clone())
        .finish();
    let _heard = tracing::subscriber::set_default(subscriber);
    // With one subscriber only, a line that another test's thread comes by first is off for all threads:
    // tracing then asks that thread's subscriber alone, and there is none.
    let _second = tracing::Dispatch::new(tracing_subscriber::registry());
    for beacon in [CohortBeacon::Smt, CohortBeacon::Cas] {
        let mut play = Play::open(3).await;
        let mut company = play.found_with(beacon, 0, &[1, 2], &[2], |_| {}).await;
        let dids = play.create_dids(&mut company, &[1, 2]).await;
        play.round(&mut company, &dids[..1]).await;
        // Lost nonces and a replayed log, too.
        let mark = play.mark();
        let updates = play.queue(&company, &dids[1..]).await;
        play.stage.kill(2).await.unwrap();
        let round = play.open_round(&mut company).await;
        play.responses(&company, mark, 1).await;
        play.stage.kill(1).await.unwrap();
        play.resume(&[1, 2]).await;
        play.finish_round(&mut company, round, mark, updates).await;

        let mut secrets = Vec::new();
        for actor in &play.stage.actors {
            let sealed = std::fs::read_to_string(actor.home.keystore_path()).unwrap();
            let root = keystore::open(&sealed, None).unwrap();
            secrets.extend(secrets_of(&actor.name, &root, company.id));
        }
        let search = Search::new(&secrets);
        // While the agents run, with the write-ahead logs, and after they stopped.
        for running in [true, false] {
            let mut searched = 0;
            for position in 0..3 {
                if !running {
                    play.stage.stop(position).await.unwrap();
                }
                let actor = &play.stage.actors[position];
                for entry in std::fs::read_dir(actor.home.root()).unwrap() {
                    let path = entry.unwrap().path();
                    if path == actor.home.keystore_path() {
                        continue;
                    }
                    let bytes = std::fs::read(&path).unwrap();
                    assert_eq!(search.find(&bytes), None, "in {path:?}");
                    searched += bytes.len();
                }
            }
            assert!(searched > 100_000, "searched only {searched} bytes");
        }
        let logged = log.0.lock().unwrap().clone();
        assert_eq!(search.find(&logged), None, "in the log");

        // The search finds what is there: the words in the key file, which has no passphrase here, and
        // an identity's public key in its store and in the log.
        let actor = &play.stage.actors[0];
        let key_file = std::fs::read(actor.home.keystore_path()).unwrap();
        assert!(search.find(&key_file).is_some());
        let identity = actor.handle.identity().to_bytes();
        let public = [Secret::bytes("identity".into(), &identity)];
        let search = Search::new(&public);
        assert!(search.find(&logged).is_some());
        let store = std::fs::read(actor.home.store_path()).unwrap();
        assert!(search.find(&store).is_some());
        play.close().await;
    }
}
