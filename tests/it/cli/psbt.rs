//! `psbt inspect`, `cohort psbt` and `tx decode` by the real binary: without an agent, and with one.

use std::path::Path;
use std::process::{Output, Stdio};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bitcoin::absolute::LockTime;
use bitcoin::consensus::encode::serialize_hex;
use bitcoin::hashes::Hash as _;
use bitcoin::transaction::Version;
use bitcoin::{Amount, OutPoint, ScriptBuf, Sequence, Transaction, TxIn, TxOut, Txid, Witness};
use btcr2_agent::agent::backend::explain_alone;
use btcr2_agent::agent::control::views::{
    PsbtInputView, PsbtInspectView, PsbtKeys, PsbtKnownView, PsbtSigning, PsbtView, PsbtsView,
    Tally,
};
use btcr2_agent::agent::control::{ErrorCode, Failure, Request, Response};
use btcr2_agent::beacon::psbt::{MAX_BYTES, Packet};
use btcr2_agent::hash::CohortId;
use btcr2_agent::network::Network;
use btcr2_agent::protocol::{Label, Round};
use serde_json::{Value, json};

use super::{Daemon, binary, done, home, run, stderr, stdout, words};

const BIP373: &str = include_str!("../../vectors/psbt/bip373.txt");

/// The published vector in which three keys sign by the key path.
fn vector() -> Vec<u8> {
    let line = BIP373.lines().next().unwrap();
    btcr2_agent::hash::from_hex(line.split(' ').nth(1).unwrap()).unwrap()
}

fn inspect(home: &Path, content: &[u8]) -> Output {
    let file = home.join("one.psbt");
    std::fs::write(&file, content).unwrap();
    run(home, ["psbt", "inspect", file.to_str().unwrap()])
}

fn piped(home: &Path, content: &[u8], args: &str) -> Output {
    let mut child = binary(home)
        .args(words(args))
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut stdin = child.stdin.take().unwrap();
    let content = content.to_vec();
    // What is not read to its end may break the pipe.
    let writer = std::thread::spawn(move || {
        let _ = std::io::Write::write_all(&mut stdin, &content);
    });
    let output = child.wait_with_output().unwrap();
    writer.join().unwrap();
    output
}

#[test]
fn a_psbt_shows_what_it_says_without_an_agent() {
    let dir = home();
    let bytes = vector();
    let text = STANDARD.encode(&bytes);
    let two = Packet::to_version_2(&bytes).unwrap();
    for (content, version) in [(bytes.clone(), 0), (text.into_bytes(), 0), (two, 2)] {
        for output in [
            inspect(dir.path(), &content),
            piped(dir.path(), &content, "psbt inspect -"),
        ] {
            assert!(output.status.success(), "{}", stderr(&output));
            let page = stdout(&output);
            for expected in [
                &format!("PSBT version {version}\n"),
                "neither a signal, nor a refund, nor a fallback",
                "1,000 sat (99 vB at 10.101 sat/vB)",
                "99999000",
                "3: they add up to the output",
                "signed by all, verified",
                "internal key 0    0b58e337aa4d3852a8c29387c42408d8cfbe3a613a5e397e0a9f01a5fb7107d4",
            ] {
                assert!(page.contains(expected), "{expected:?} in {page}");
            }
        }
    }
    let json = piped(dir.path(), &bytes, "psbt inspect - --json");
    let object: Value = serde_json::from_str(stdout(&json)).unwrap();
    assert_eq!(object["result"]["inputs"][0]["signing"], json!("key_path"));
    assert_eq!(
        object["result"]["inputs"][0]["partials"],
        json!({"have": 3, "of": 3})
    );
    assert_eq!(object["result"].get("known"), None);
}

#[test]
fn what_can_not_be_so_ends_with_a_failure() {
    let dir = home();
    let mut bytes = vector();
    // A satoshi less for the payee: the signature is of another transaction.
    let value = bytes
        .windows(8)
        .position(|at| at == 99_999_000_u64.to_le_bytes());
    bytes[value.unwrap()] -= 1;
    let output = inspect(dir.path(), &bytes);
    assert_eq!(output.status.code(), Some(1));
    let page = stdout(&output);
    assert!(
        page.contains("WRONG") && page.contains("input 0: "),
        "{page}"
    );
    let error = stderr(&output);
    assert!(
        error.starts_with("error: the PSBT can not be so: input 0: the partial signature of"),
        "{error}"
    );
    assert_eq!(error.lines().count(), 1);
    let json = piped(dir.path(), &bytes, "psbt inspect - --json");
    assert_eq!(json.status.code(), Some(1));
    let object: Value = serde_json::from_str(stdout(&json)).unwrap();
    assert_eq!(object["ok"], json!(false));
    assert_eq!(object["result"]["inputs"][0]["keys"], json!("wrong"));

    // What is no PSBT at all is one line.
    let whole = vector();
    let huge = [b"psbt\xff", vec![0; MAX_BYTES].as_slice()].concat();
    let twice = {
        let mut bytes = whole.clone();
        // The field of the internal key, again.
        let at = whole
            .windows(3)
            .position(|at| at == [0x01, 0x17, 0x20])
            .unwrap();
        let field = whole[at..at + 35].to_vec();
        bytes.splice(at..at, field);
        bytes
    };
    for (content, words) in [
        (&b""[..], "it is not a PSBT"),
        (b"AAAA", "it is not a PSBT"),
        (&whole[..300], "it is cut off in input 0"),
        (&huge, "it is longer than the 4194304 bytes"),
        (&twice, "input 0 has the field 0x17 twice"),
        (
            &[whole.as_slice(), b"\n"].concat(),
            "1 bytes follow its end",
        ),
    ] {
        let output = piped(dir.path(), content, "psbt inspect -");
        assert_eq!(output.status.code(), Some(1), "{words}");
        assert_eq!(stdout(&output), "", "{words}");
        let error = stderr(&output);
        assert!(error.starts_with(&format!("error: {words}")), "{error}");
        assert_eq!(error.lines().count(), 1);
    }
    let missing = run(dir.path(), words("psbt inspect nowhere.psbt"));
    assert!(
        stderr(&missing).starts_with("error: nowhere.psbt: "),
        "{}",
        stderr(&missing)
    );
}

/// A signal of 154 vB.
fn signal() -> Transaction {
    let pay = |value, script_pubkey| TxOut {
        value: Amount::from_sat(value),
        script_pubkey,
    };
    let beacon = ScriptBuf::from_bytes([&[0x51, 0x20][..], &[1; 32]].concat());
    Transaction {
        version: Version::TWO,
        lock_time: LockTime::ZERO,
        input: vec![TxIn {
            previous_output: OutPoint::new(Txid::from_byte_array([7; 32]), 0),
            script_sig: ScriptBuf::new(),
            sequence: Sequence(0xffff_fffd),
            witness: Witness::from_slice(&[[3; 64]]),
        }],
        output: vec![
            pay(1_000, beacon),
            pay(0, ScriptBuf::new_op_return([9; 32])),
        ],
    }
}

#[test]
fn a_transaction_is_explained_by_its_form_without_an_agent() {
    let dir = home();
    let mut refund = signal();
    refund.input[0].sequence = Sequence(1_008);
    refund.output.pop();
    let mut fallback = signal();
    let leaf = [vec![3; 64], vec![0x51], [&[0xc0][..], &[4; 32]].concat()];
    fallback.input[0].witness = Witness::from_slice(&leaf);
    let mut other = signal();
    other.output.pop();
    let mut unsigned = signal();
    unsigned.input[0].witness.clear();
    let zeros = "09".repeat(32);
    for (tx, expected) in [
        (
            signal(),
            &[
                "it has the form of a signal, of a beacon that is not known here",
                &format!("commits to        {zeros}"),
                "154 vB; the fee is not known here",
                "weight            616 WU",
                "change",
                "the signal: 32 bytes",
                "not seen",
            ][..],
        ),
        (
            unsigned,
            &["154 vB once signed by the key path", "616 WU", "not signed"],
        ),
        (
            refund,
            &[
                "it has the form of a refund, 1008 blocks after what it spends",
                "lock              1008 blocks after what it spends",
                "a payee",
            ],
        ),
        (
            fallback,
            &[
                "signed through a leaf of a beacon that is not known here",
                &zeros,
            ],
        ),
        (other, &["neither a signal, nor a refund, nor a fallback"]),
    ] {
        let output = run(dir.path(), ["tx", "decode", &serialize_hex(&tx)]);
        assert!(output.status.success(), "{}", stderr(&output));
        for text in expected {
            assert!(
                stdout(&output).contains(text),
                "{text:?} in {}",
                stdout(&output)
            );
        }
    }
    let id = run(dir.path(), ["tx", "decode", &zeros]);
    assert_eq!(id.status.code(), Some(1));
    assert!(stderr(&id).contains("only a running agent can look for a transaction by its id"));
    assert!(stderr(&id).contains("hint: give the whole transaction in hex"));
    let none = run(dir.path(), ["tx", "decode", &"00".repeat(70)]);
    assert!(
        stderr(&none).contains("this is not a transaction"),
        "{}",
        stderr(&none)
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_running_agent_is_asked_and_its_answer_is_told() {
    let cohort = CohortId::from_bytes([0xab; 32]);
    let mut view = PsbtInspectView {
        version: 2,
        tx: explain_alone(&signal(), &[]),
        known: Some(PsbtKnownView {
            cohort,
            identical: true,
            rung: Some(2),
            round: Some(Round(3)),
            signed_here: true,
        }),
        inputs: vec![PsbtInputView {
            outpoint: "aa:0".to_owned(),
            value_sat: Some(10_000),
            keys: PsbtKeys::Cohort,
            participants: 3,
            internal_key: None,
            script_root: Some("ee".repeat(32)),
            nonces: Tally { have: 3, of: 3 },
            partials: Tally { have: 1, of: 3 },
            unverified: 1,
            signing: PsbtSigning::Open,
            foreign_fields: 4,
        }],
        problems: Vec::new(),
    };
    let answer = view.clone();
    let daemon = Daemon::start(move |_| done(&answer));
    let file = daemon.home.path().join("one.psbt");
    std::fs::write(&file, vector()).unwrap();
    let line = format!("psbt inspect {}", file.display());
    let output = daemon.run(&line).await;
    assert!(output.status.success(), "{}", stderr(&output));
    for expected in [
        "known here        yes: it has the form of a signal, of a beacon that is not known here; identical to the one signed \
         here",
        "  input         sat  keys                            nonces   partial signatures  state\n",
        "      0  10,000 sat  3: exactly those of the cohort     3/3  1/3, 1 not verified  not signed\n",
        "script root 0     eeee",
        "input 0 has 4 MuSig2 fields about other keys, which are not looked at",
    ] {
        assert!(
            stdout(&output).contains(expected),
            "{expected:?} in {}",
            stdout(&output)
        );
    }
    match daemon.seen().as_slice() {
        [Request::PsbtInspect(inspect)] => assert_eq!(inspect.psbt, STANDARD.encode(vector())),
        other => panic!("{other:?}"),
    }

    view.problems = vec!["input 0: one".to_owned(), "input 1: two".to_owned()];
    view.known = None;
    view.inputs[0].signing = PsbtSigning::Leaf(2);
    let daemon = Daemon::start(move |_| done(&view));
    std::fs::write(daemon.home.path().join("one.psbt"), vector()).unwrap();
    let output = daemon
        .run(&format!(
            "psbt inspect {}",
            daemon.home.path().join("one.psbt").display()
        ))
        .await;
    assert_eq!(output.status.code(), Some(1));
    assert!(stdout(&output).contains("signed by 2 through the fallback leaf, verified"));
    assert_eq!(
        stderr(&output),
        "error: the PSBT can not be so in 2 places\n"
    );

    // What is no PSBT is refused before anybody is asked.
    let daemon = Daemon::start(|_| Response::Failed(Failure::new(ErrorCode::Internal, "asked")));
    std::fs::write(daemon.home.path().join("bad"), b"psbt\xff").unwrap();
    let output = daemon
        .run(&format!(
            "psbt inspect {}",
            daemon.home.path().join("bad").display()
        ))
        .await;
    assert!(stderr(&output).contains("cut off"), "{}", stderr(&output));
    assert!(daemon.seen().is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_being_signed_is_shown_in_either_version() {
    let view = PsbtsView {
        cohort: CohortId::from_bytes([0xab; 32]),
        network: Network::Signet,
        psbts: vec![PsbtView {
            label: Label::SIGNAL,
            txid: signal().compute_txid(),
            psbt: STANDARD.encode(vector()),
        }],
    };
    let daemon = Daemon::start(move |_| done(&view));
    let output = daemon.run("cohort psbt abab").await;
    let page = stdout(&output);
    assert!(
        page.contains(&format!("signal/1 · {}", signal().compute_txid())),
        "{page}"
    );
    assert!(page.contains(&STANDARD.encode(vector())));
    let output = daemon.run("cohort psbt abab --v2 --json").await;
    let object: Value = serde_json::from_str(stdout(&output)).unwrap();
    let two = STANDARD
        .decode(object["result"]["psbts"][0]["psbt"].as_str().unwrap())
        .unwrap();
    let packet = Packet::parse(&two).unwrap();
    assert_eq!(packet.version(), 2);
    assert_eq!(packet.psbt(), Packet::parse(&vector()).unwrap().psbt());
}
