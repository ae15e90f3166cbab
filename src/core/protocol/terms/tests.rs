use super::*;

fn terms() -> Terms {
    let key = "79be667ef9dcbbac55a06295ce870b07029bfcdb2dce28d959f2815b16f81798"
        .parse()
        .unwrap();
    Terms::with_defaults(
        key,
        Network::Regtest,
        CohortBeacon::Smt,
        Salt::from_bytes([7; 16]),
        UnixTime(1_800_000_000),
    )
}

#[test]
fn canonical_bytes_and_id_are_known() {
    let expected = concat!(
        r#"{"aggregator":"79be667ef9dcbbac55a06295ce870b07029bfcdb2dce28d959f2815b16f81798","#,
        r#""beacon":"smt","cadence_seconds":0,"cost_enrolment_sat":0,"cost_signal_sat":0,"depth":1,"#,
        r#""dids_max":8,"dids_min":0,"empty_rounds":"skip","fee_ladder":[1,3,10],"formation_seconds":86400,"#,
        r#""funding":"aggregator","invite_only":false,"join_by":1800000000,"max_fee_rate":50,"name":"","network":"regtest","#,
        r#""output_policy":"musig2-key-path","pending_trigger":0,"refund_blocks":1008,"response_seconds":43200,"#,
        r#""salt":"07070707070707070707070707070707","seats_max":20,"seats_min":2,"sessions_max":4,"#,
        r#""signing_seconds":7200,"tos":null,"v":1}"#
    );
    assert_eq!(terms().canonical(), expected);
    let (parsed, id) = Terms::parse(expected).unwrap();
    assert_eq!(parsed, terms());
    assert_eq!(id.to_bytes(), hash::sha256(expected.as_bytes()));
    assert_eq!(id, terms().cohort_id());
}

#[test]
fn other_spellings_of_the_same_terms_are_refused() {
    let canonical = terms().canonical();
    let spaced = canonical.replacen(':', ": ", 1);
    assert_eq!(Terms::parse(&spaced), Err(TermsError::NotCanonical));
    let doubled = canonical.replacen(r#""depth":1"#, r#""depth":1,"depth":1"#, 1);
    assert!(matches!(
        Terms::parse(&doubled),
        Err(TermsError::Malformed(_))
    ));
    let extra = canonical.replacen(r#""depth":1"#, r#""depth":1,"depth2":1"#, 1);
    assert!(matches!(
        Terms::parse(&extra),
        Err(TermsError::Malformed(_))
    ));
}

/// Terms from before the term existed keep their id; whoever takes deposits says so under another one.
#[test]
fn the_term_of_deposits_is_absent_unless_there_are_any() {
    let without = terms().canonical();
    assert!(!without.contains("deposits"));
    for (deposits, name) in [
        (Deposits::Accepted, "accepted"),
        (Deposits::Required, "required"),
    ] {
        let mut changed = terms();
        changed.deposits = deposits;
        let member = format!(r#""deposits":"{name}","depth":1,"#);
        let text = without.replacen(r#""depth":1,"#, &member, 1);
        assert_eq!(changed.canonical(), text);
        let (parsed, id) = Terms::parse(&text).unwrap();
        assert_eq!(parsed, changed);
        assert_ne!(id, terms().cohort_id());
        assert_eq!(deposits.to_string(), name);
    }
    let spelled = without.replacen(r#""depth":1,"#, r#""deposits":"none","depth":1,"#, 1);
    assert_eq!(Terms::parse(&spelled), Err(TermsError::NotCanonical));
    let unknown = without.replacen(r#""depth":1,"#, r#""deposits":"some","depth":1,"#, 1);
    assert!(matches!(
        Terms::parse(&unknown),
        Err(TermsError::Malformed(_))
    ));
}

#[test]
fn the_term_of_admission_is_absent_unless_something_is_asked() {
    let without = terms().canonical();
    assert!(!without.contains("admission"));
    for (admission, value) in [
        (Admission::Pow(20), r#"{"pow":20}"#),
        (Admission::Approval, r#""approval""#),
        (Admission::Code, r#""code""#),
    ] {
        let mut changed = terms();
        changed.admission = admission;
        let text = without.replacen('{', &format!(r#"{{"admission":{value},"#), 1);
        assert_eq!(changed.canonical(), text);
        let (parsed, id) = Terms::parse(&text).unwrap();
        assert_eq!(parsed, changed);
        assert_ne!(id, terms().cohort_id());
    }
    let spelled = without.replacen('{', r#"{"admission":"open","#, 1);
    assert_eq!(Terms::parse(&spelled), Err(TermsError::NotCanonical));
    for value in [r#""list""#, r#"{"pow":-1}"#, r#"{"pow":256}"#, "null"] {
        let unknown = without.replacen('{', &format!(r#"{{"admission":{value},"#), 1);
        assert!(matches!(
            Terms::parse(&unknown),
            Err(TermsError::Malformed(_))
        ));
    }
}

#[test]
fn every_range_is_enforced_and_names_its_field() {
    type Change = fn(&mut Terms);
    let cases: [(&str, Change); 33] = [
        ("v", |t| t.v = 2),
        ("seats_min", |t| t.seats_min = 0),
        ("seats_max", |t| t.seats_max = 1),
        ("seats_max", |t| t.seats_max = 1_001),
        ("dids_max", |t| t.dids_max = 0),
        ("dids_min", |t| t.dids_min = 9),
        ("join_by", |t| t.join_by = UnixTime(1 << 53)),
        ("formation_seconds", |t| t.formation_seconds = 0),
        ("cadence_seconds", |t| t.cadence_seconds = 31_536_001),
        ("response_seconds", |t| t.response_seconds = 0),
        ("signing_seconds", |t| t.signing_seconds = 2_592_001),
        ("sessions_max", |t| t.sessions_max = 0),
        ("sessions_max", |t| t.sessions_max = 17),
        ("depth", |t| t.depth = 0),
        ("max_fee_rate", |t| t.max_fee_rate = 0),
        ("fee_ladder", |t| t.fee_ladder = vec![]),
        ("fee_ladder", |t| t.fee_ladder = vec![2]),
        ("fee_ladder", |t| t.fee_ladder = vec![1, 1]),
        ("fee_ladder", |t| t.fee_ladder = vec![1, 3, 2]),
        ("fee_ladder", |t| t.fee_ladder = vec![1, 101]),
        ("fee_ladder", |t| t.fee_ladder = vec![1, 2, 3, 4]),
        // Two weeks between rounds: the refund of the tip would ripen before the next.
        ("refund_blocks", |t| t.cadence_seconds = 1_209_600),
        ("refund_blocks", |t| {
            t.refund_blocks = 0;
            t.funding = Funding::Members;
        }),
        ("output_policy", |t| t.output_policy = OutputPolicy::KOfN(0)),
        ("output_policy", |t| t.output_policy = OutputPolicy::KOfN(2)),
        ("output_policy", |t| {
            t.seats_min = 1;
            t.output_policy = OutputPolicy::KOfN(1);
        }),
        ("seats_max", |t| {
            t.seats_max = 1_000;
            t.output_policy = OutputPolicy::KOfN(1);
        }),
        ("admission", |t| t.admission = Admission::Pow(0)),
        ("admission", |t| t.admission = Admission::Pow(29)),
        ("cost_enrolment_sat", |t| t.cost_enrolment_sat = u64::MAX),
        ("cost_signal_sat", |t| t.cost_signal_sat = u64::MAX),
        ("name", |t| t.name = "\u{1b}[2J".into()),
        ("tos.url", |t| {
            t.tos = Some(TermsOfService {
                sha256: TextHash::from_bytes([0; 32]),
                url: "x".repeat(513),
            });
        }),
    ];
    assert_eq!(terms().validate(), Ok(()));
    let mut weekly = terms();
    weekly.cadence_seconds = 302_400;
    weekly.output_policy = OutputPolicy::KOfN(1);
    weekly.funding = Funding::Members;
    weekly.fee_ladder = vec![1, 100];
    assert_eq!(weekly.validate(), Ok(()));
    assert!(
        weekly
            .canonical()
            .contains(r#""output_policy":{"k-of-n":1}"#)
    );
    for (name, change) in cases {
        let mut changed = terms();
        change(&mut changed);
        match changed.validate() {
            Err(TermsError::OutOfRange { field, .. }) => assert_eq!(field, name),
            other => panic!("{name}: {other:?}"),
        }
    }
}
