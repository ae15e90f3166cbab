//! Who is seated, who stalls, and going on without: by separate processes over a relay.

use serde_json::Value;

use super::processes::{Agent, dev, phase, text};

/// An aggregator and so many others, running.
fn agents(dir: &std::path::Path, relay: &str, chain: &str, others: usize) -> Vec<Agent> {
    let agent = |n: usize| {
        let mut agent = Agent::init(dir, &format!("agent-{n}"), relay, chain);
        agent.start();
        agent
    };
    (0..=others).map(agent).collect()
}

/// The id and the share link of a new cohort.
fn advertised(aggregator: &Agent, terms: &str) -> (String, String) {
    let view = aggregator.done(&format!("cohort advertise {terms}"));
    let cohort = text(&view["summary"]["cohort"]).to_owned();
    (cohort, text(&view["naddr"]).to_owned())
}

fn show(cohort: &str) -> String {
    format!("cohort show {cohort}")
}

fn next(view: &Value) -> &str {
    view["summary"]["next_step"].as_str().unwrap_or_default()
}

#[test]
fn seats_go_to_whom_the_terms_name() {
    let dir = tempfile::tempdir().unwrap();
    let (_relay, relay) = dev(dir.path(), "relay");
    let (_chain, chain) = dev(dir.path(), "chain");
    let mut agents = agents(dir.path(), &relay, &chain, 3);
    let [aggregator, one, two, three] = &mut agents[..] else {
        unreachable!()
    };

    // By code.
    let (cohort, naddr) = advertised(aggregator, "--seats 2 --admission code --name coded");
    let without = one.ask(&format!("cohort join {naddr} --yes")).unwrap_err();
    assert!(without.contains("--code"), "{without}");
    let slip = one
        .ask(&format!("cohort join {naddr} --yes --code invite1qqqq"))
        .unwrap_err();
    assert!(slip.contains("checksum"), "{slip}");
    let made = aggregator.done(&format!("cohort code new {cohort}"));
    let code = text(&made["code"]).to_owned();
    assert_eq!(made["codes"][0]["uses"], 1);
    let join = format!("cohort join {naddr} --yes --code {code}");
    one.done(&join);
    one.wait(&show(&cohort), |view| phase(view) == "seated");
    two.done(&join);
    let refused = two.wait(&show(&cohort), |view| phase(view) == "ended");
    assert_eq!(refused["end"]["cause"], "refused");
    assert!(
        text(&refused["end"]["text"]).contains("used up"),
        "{refused}"
    );
    assert!(next(&refused).contains("--code"), "{refused}");
    let listed = aggregator.done(&format!("cohort code list {cohort}"));
    assert_eq!(listed["code"], Value::Null);
    assert_eq!(listed["codes"][0]["used_by"].as_array().unwrap().len(), 1);
    assert!(
        !aggregator
            .text(&format!("cohort code list {cohort}"))
            .contains(&code)
    );
    let another = aggregator.done(&format!("cohort code new {cohort} --uses 2"));
    let code = text(&another["code"]);
    two.done(&format!("cohort join {naddr} --yes --code {code}"));
    for agent in [&*aggregator, &*one, &*two] {
        agent.wait(&show(&cohort), |view| phase(view) == "funding");
    }

    // By the operator.
    let (cohort, naddr) = advertised(aggregator, "--seats 2 --admission approval");
    let applicants = format!("cohort applicants {cohort}");
    let key = |agent: &Agent| {
        agent.done(&format!("cohort join {naddr} --yes"));
        let view = agent.wait(&show(&cohort), |view| next(view).contains("decision"));
        text(&view["own_key"]).to_owned()
    };
    let (first, second) = (key(one), key(two));
    // Who waits is not forgotten when the daemon starts again.
    aggregator.wait(&applicants, |view| {
        view["waiting"].as_array().is_some_and(|all| all.len() == 2)
    });
    aggregator.stop();
    aggregator.start();
    let waiting = aggregator.wait(&applicants, |view| {
        view["waiting"].as_array().is_some_and(|all| all.len() == 2)
    });
    assert!(waiting["waiting"][0]["work_bits"].as_u64().unwrap() >= 18);
    let view = aggregator.done(&show(&cohort));
    assert!(next(&view).contains("cohort applicants"), "{view}");
    assert!(aggregator.text(&applicants).contains("cohort approve"));
    let decided = aggregator.done(&format!("cohort approve {cohort} {first}"));
    assert_eq!(decided["seats_taken"], 1);
    aggregator.done(&format!(
        "cohort reject {cohort} {second} --reason stranger"
    ));
    one.wait(&show(&cohort), |view| phase(view) == "seated");
    let refused = two.wait(&show(&cohort), |view| phase(view) == "ended");
    assert_eq!(refused["end"]["cause"], "rejected");
    assert!(
        text(&refused["end"]["text"]).contains("stranger"),
        "{refused}"
    );
    // Approved before it asks.
    let late = three.done(&format!("cohort join {naddr} --yes"));
    let third = text(&late["own_key"]).to_owned();
    aggregator.done(&format!("cohort approve {cohort} {third}"));
    for agent in [&*aggregator, &*one, &*three] {
        agent.wait(&show(&cohort), |view| phase(view) == "funding");
    }

    // By work.
    let (cohort, naddr) = advertised(aggregator, "--seats 2 --admission pow:10");
    one.done(&format!("cohort join {naddr} --yes"));
    two.done(&format!("cohort join {naddr} --yes --work 12"));
    for agent in [&*aggregator, &*one, &*two] {
        agent.wait(&show(&cohort), |view| phase(view) == "funding");
    }
    let (_, naddr) = advertised(aggregator, "--seats 2 --admission pow:26");
    let over = one.ask(&format!("cohort join {naddr} --yes")).unwrap_err();
    assert!(
        over.contains("limits.pow_bits") && over.contains("--work 26"),
        "{over}"
    );
}

#[test]
fn a_cohort_that_stalls_goes_on_without_who_is_away() {
    let dir = tempfile::tempdir().unwrap();
    let (_relay, relay) = dev(dir.path(), "relay");
    let (_chain, chain) = dev(dir.path(), "chain");
    let mut agents = agents(dir.path(), &relay, &chain, 3);
    let mut away = agents.pop().unwrap();
    let [aggregator, one, two] = &agents[..] else {
        unreachable!()
    };
    let dev_run = |line: &str| aggregator.done(&format!("{line} --chain {chain}"));

    let terms = "--seats 3 --response-deadline 4s --sign-deadline 60s";
    let (old, naddr) = advertised(aggregator, terms);
    for member in [one, two, &away] {
        member.done(&format!("cohort join {naddr} --yes"));
    }
    let formed = aggregator.wait(&show(&old), |view| phase(view) == "funding");
    dev_run(&format!(
        "dev pay {} 100000",
        text(&formed["beacon"]["address"])
    ));
    let dids: Vec<String> = [one, two, &away]
        .iter()
        .map(|member| {
            member.wait(&show(&old), |view| phase(view) == "idle");
            let view = member.done(&format!("did create --cohort {old}"));
            text(&view["did"]).to_owned()
        })
        .collect();
    aggregator.wait(&show(&old), |view| phase(view) == "idle");
    let seat = |member: &Agent| member.done(&show(&old))["own_seat"].as_u64().unwrap();
    let (absent, key) = (seat(&away), away.done(&show(&old))["own_key"].clone());
    away.stop();

    // Two rounds without it: named, by seat, key and how that is known.
    for round in 1..=2_usize {
        aggregator.wait(&show(&old), |view| phase(view) == "idle");
        aggregator.done(&format!("cohort announce {old}"));
        let failed = |view: &Value| {
            view["past_rounds"][0]["round"] == round && view["past_rounds"][0]["state"] == "failed"
        };
        let view = aggregator.wait(&show(&old), failed);
        let culprit = &view["past_rounds"][0]["end"]["culprits"][0];
        assert_eq!((&culprit["seat"], &culprit["key"]), (&absent.into(), &key));
        assert_eq!(
            (&culprit["did"], &culprit["known_by"]),
            (&"absent".into(), &"own".into())
        );
        let view = one.wait(&show(&old), failed);
        let culprit = &view["past_rounds"][0]["end"]["culprits"][0];
        assert_eq!((&culprit["seat"], &culprit["key"]), (&absent.into(), &key));
        assert_eq!(culprit["known_by"], "claim");
        let member = usize::try_from(absent).unwrap();
        assert_eq!(view["members"][member]["missed_rounds"], round);
    }
    let stalled = aggregator.done(&show(&old));
    let advice = format!("cohort reform {} --without {absent}", &old[..8]);
    assert!(next(&stalled).contains(&advice), "{stalled}");

    // The others are offered another cohort, and see why.
    let view = aggregator.done(&format!("{advice} --reason away --yes"));
    let new = text(&view["summary"]["cohort"]).to_owned();
    let more = "cohort list".to_owned();
    for member in [one, two] {
        let view = member.wait(&show(&old), |view| !view["reform"].is_null());
        let left = &view["reform"]["without"][0];
        assert_eq!(
            (&left["seat"], &left["missed_rounds"]),
            (&absent.into(), &2.into())
        );
        assert_eq!(view["reform"]["cohort"], new.as_str());
        assert!(
            next(&view).contains(&format!("cohort join {new}")),
            "{view}"
        );
        assert!(member.text("status").contains("cohort join"), "{more}");
        assert!(
            member
                .text(&show(&old))
                .contains("did not answer 2 rounds in a row")
        );
        let early = member
            .ask(&format!("cohort migrate {new} --plan"))
            .unwrap_err();
        assert!(early.contains("no cohort"), "{early}");
        member.done(&format!("cohort join {new} --yes"));
    }
    for agent in [aggregator, one, two] {
        let view = agent.wait(&show(&new), |view| phase(view) == "funding");
        assert_eq!(view["members"].as_array().unwrap().len(), 2);
        let seats = view["members"].as_array().unwrap();
        let old_view = agent.done(&show(&old));
        for member in old_view["members"].as_array().unwrap() {
            assert!(
                seats.iter().all(|seat| seat["key"] != member["key"]),
                "fresh keys"
            );
        }
    }
    let formed = aggregator.done(&show(&new));
    let address = text(&formed["beacon"]["address"]).to_owned();
    dev_run(&format!("dev pay {address} 100000"));

    // Their DIDs move: the plan says what it takes, then one update each adds the new beacon and removes the old.
    let view = one.wait(&show(&old), |view| next(view).contains("cohort migrate"));
    assert!(next(&view).contains(&new[..8]), "{view}");
    let plan = one.done(&format!("cohort migrate {new} --plan"));
    assert_eq!(
        (&plan["from"], &plan["to"]),
        (&old.clone().into(), &new.clone().into())
    );
    let row = &plan["dids"][0];
    assert_eq!(
        (&row["did"], &row["problem"]),
        (&dids[0].clone().into(), &Value::Null)
    );
    assert_eq!(row["removes"].as_array().unwrap().len(), 1);
    let announcement = &row["joining"]["announcement"];
    assert!(announcement["send_sat"].as_u64().unwrap() > 0, "{plan}");
    dev_run(&format!("dev pay {} 20000", text(&announcement["address"])));
    let moved = one.wait(&format!("cohort migrate {new} --yes"), |view| {
        view["dids"][0]["joining"]["announcement"]["txid"].is_string()
    });
    assert_eq!(moved["dids"][0]["joining"]["stage"], "announced", "{moved}");
    dev_run("dev mine");
    let did = one.wait(&format!("did show {}", dids[0]), |view| {
        view["version"] == 2
    });
    let services = did["document"]["service"].to_string();
    assert!(services.contains(&address), "{services}");
    assert!(
        !services.contains(text(&stalled["beacon"]["address"])),
        "{services}"
    );
    let again = one.done(&format!("cohort migrate {new} --plan"));
    assert!(again["dids"].as_array().unwrap().is_empty(), "{again}");
    aggregator.done(&format!("cohort cancel {old} --yes"));
    one.wait(&show(&old), |view| phase(view) == "ended");
}
