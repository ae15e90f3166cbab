use super::*;
use crate::config::duration::Span;
use crate::config::rules::{RULES, rule_for};
use crate::config::settings::{Backend, BeaconChoice, WhenNoUpdate};
use crate::network::Network;

fn parse(text: &str) -> Result<Config, String> {
    Config::from_toml(text, Path::new("config.toml")).map_err(|error| error.to_string())
}

fn environment(variables: &[(&str, &str)]) -> Vec<(String, String)> {
    let owned = |(name, value): &(&str, &str)| ((*name).to_owned(), (*value).to_owned());
    variables.iter().map(owned).collect()
}

/// The default file with every commented setting in force.
fn uncommented() -> String {
    let active = |line: &str| match line.strip_prefix('#') {
        Some(rest) if !rest.is_empty() && !rest.starts_with([' ', '#']) => rest.to_owned(),
        _ => line.to_owned(),
    };
    Config::default_toml()
        .lines()
        .map(|line| active(line) + "\n")
        .collect()
}

#[test]
fn the_default_file_sets_nothing_and_uncommented_it_says_the_defaults() {
    assert_eq!(parse(Config::default_toml()), Ok(Config::default()));
    assert_eq!(
        toml::from_str::<toml::Table>(Config::default_toml()),
        Ok(toml::Table::new())
    );

    assert_eq!(parse(&uncommented()), Ok(Config::default()));
    let shown: toml::Table = toml::from_str(&uncommented()).unwrap();
    let defaults = toml::Table::try_from(Config::default()).unwrap();
    assert_eq!(
        shown, defaults,
        "every setting that has a default is shown with it"
    );
}

#[test]
fn the_default_file_states_every_range() {
    let text = Config::default_toml();
    for rule in RULES {
        let name = rule.key.rsplit('.').next().unwrap();
        let described = text.split("\n\n").any(|paragraph| {
            let words = paragraph.replace("\n# ", " ");
            words.contains(name) && words.contains(&rule.to_string())
        });
        assert!(described, "{}: {rule}", rule.key);
    }
}

#[test]
fn a_file_sets_what_it_says_and_nothing_else() {
    let npub = "npub180cvv07tjdrrgpa0j7j7tmnyl2yr6yr7l8j4s3evf6u64th6gkwsyjh6w6";
    let text = format!(
        "network = \"mutinynet\"\n\
         relays = [\"ws://127.0.0.1:7777\", \"wss://relay.example\"]\n\
         [participant]\n\
         when_no_update = \"idle\"\n\
         allowed_aggregators = [\"{npub}\"]\n\
         auto_join = true\n\
         [chain.regtest]\n\
         backend = \"bitcoind\"\n\
         cookie_file = \"/var/lib/bitcoin/regtest/.cookie\"\n\
         poll = \"2s\"\n"
    );
    let config = parse(&text).unwrap();
    let mut expected = Config {
        network: Network::Mutinynet,
        relays: config.relays.clone(),
        ..Config::default()
    };
    expected.participant.when_no_update = WhenNoUpdate::Idle;
    expected.participant.auto_join = true;
    // NIP-19's own example of this key.
    expected.participant.allowed_aggregators = vec![
        "3bf0c63fcb93463407af97a5e5ee64fa883d107ef9e558472c4eb9aaaefa459d"
            .parse()
            .unwrap(),
    ];
    expected.chain.regtest.backend = Backend::Bitcoind;
    expected.chain.regtest.cookie_file = Some("/var/lib/bitcoin/regtest/.cookie".into());
    expected.chain.regtest.poll = Span::from_seconds(2);
    assert_eq!(config, expected);
    assert_eq!(config.relays.len(), 2);
    assert_eq!(
        config.chain.of(Network::Regtest).url_for(Network::Regtest),
        "http://127.0.0.1:18443"
    );
    assert_eq!(
        config.chain.of(Network::Signet).url_for(Network::Signet),
        "https://mempool.space/signet/api"
    );
    // What is written reads back as what it was.
    assert_eq!(parse(&toml::to_string(&config).unwrap()), Ok(config));
}

#[test]
fn malformed_files_say_line_key_and_what_is_allowed() {
    let list = format!("relays = [{}]", "\"wss://a.example\",".repeat(2));
    for (text, expected) in [
        (
            "netwrok = \"signet\"",
            "line 1: netwrok: unknown field `netwrok`, expected one of `network`",
        ),
        (
            "\nnetwork = \"mainnet\"",
            "line 2: network: unknown variant `mainnet`, expected one of `bitcoin`, `signet`",
        ),
        ("network = 3", "line 1: network: "),
        (
            "[participant]\nmax_member = 5",
            "line 2: participant.max_member: unknown field `max_member`",
        ),
        (
            "[participant]\nmax_members = 1001",
            "line 2: participant.max_members: 1001 is out of range; use 2 to 1000 members",
        ),
        ("[participant]\nmax_members = 1", "use 2 to 1000 members"),
        (
            "[participant]\nmax_members = -5",
            "-5 is out of range; use 2 to 1000 members",
        ),
        (
            "[participant]\nmax_members = \"ten\"",
            "\"ten\" is not a whole number; use 2 to 1000 members",
        ),
        (
            "[participant]\nmax_members = 5.0",
            "5.0 is not a whole number; use 2 to 1000 members",
        ),
        (
            "[participant]\nmax_fee_rate = nan",
            "nan is not a whole number; use 1 to 10000 sat/vB",
        ),
        (
            "[participant]\nauto_join = 1",
            "line 2: participant.auto_join: 1 is neither true nor false",
        ),
        (
            "[participant]\nauto_join = true",
            "line 2: participant.auto_join: needs participant.allowed_aggregators",
        ),
        (
            "[participant]\nmin_members = 60",
            "line 2: participant.min_members: is above participant.max_members, 50",
        ),
        (
            "[aggregator]\nmax_members = 3\nmin_members = 4",
            "line 3: aggregator.min_members: is above aggregator.max_members, 3",
        ),
        (
            "[participant]\nwhen_no_update = \"nothing\"",
            "expected `no-update` or `idle`",
        ),
        (
            "[participant]\nallowed_networks = []",
            "line 2: participant.allowed_networks: is empty",
        ),
        (
            "[participant]\nallowed_networks = [\"signet\", \"signet\"]",
            "lists signet twice",
        ),
        (
            "[participant]\nallowed_aggregators = [\"npub1x\"]",
            "is not a public key: use npub1",
        ),
        (
            "[participant]\nallowed_aggregators = [\"nsec1abc\"]",
            "a secret key does not belong here",
        ),
        (
            "[aggregator]\nsigning = \"2 hours\"",
            "\"2 hours\" is not a span of time: use a whole number and s, m, h or d, like \"12h\"; use 1s to 1d",
        ),
        (
            "[aggregator]\nsigning = 7200",
            "7200 is not a span of time; use 1s to 1d, in quotes",
        ),
        ("[aggregator]\nsigning = \"25h\"", "use 1s to 1d"),
        (
            "[aggregator]\ncadence = \"13h\"",
            "line 2: aggregator.cadence: is shorter than aggregator.response and aggregator.signing together, 14h",
        ),
        (
            "[aggregator]\nresponse = \"23h\"",
            "line 2: aggregator.cadence: is shorter than",
        ),
        (
            "[aggregator]\nbeacon = \"singleton\"",
            "expected `smt` or `cas`",
        ),
        ("relays = \"wss://a.example\"", "line 1: relays: "),
        (
            "relays = [\"a.example\"]",
            "line 1: relays: \"a.example\" is not the address of a relay: use wss://host",
        ),
        ("relays = [\"ws://abc.onion\"]", "needs privacy.proxy"),
        (&list, "lists wss://a.example twice"),
        (
            "[chain.mainnet]\npoll = \"1s\"",
            "chain.mainnet.poll: unknown field `mainnet`, expected one of `bitcoin`",
        ),
        (
            "[chain.mainnet]",
            "line 1: chain.mainnet: unknown field `mainnet`",
        ),
        ("[chian]", "line 1: chian: unknown field `chian`"),
        (
            "[chain.signet]\nurl = \"ftp://a.example\"",
            "use https://host",
        ),
        (
            "[chain.signet]\nurl = \"http://a.example\"",
            "line 2: chain.signet.url: a public server needs https",
        ),
        (
            "[chain.signet]\nurl = \"https://u:p@a.example\"",
            "an address holds no user or password",
        ),
        (
            "[chain.signet]\nbackend = \"electrum\"",
            "expected `esplora` or `bitcoind`",
        ),
        (
            "[chain.signet]\nbackend = \"bitcoind\"",
            "line 2: chain.signet.backend: needs cookie_file",
        ),
        (
            "[chain.signet]\ncookie_file = \"x\"",
            "is for backend = \"bitcoind\" only",
        ),
        (
            "[chain.signet]\npassword_file = \"x\"",
            "line 2: chain.signet.password_file: is for backend = \"bitcoind\" only",
        ),
        (
            "[chain.signet]\nbackend = \"bitcoind\"\nuser = \"u\"",
            "chain.signet.user: needs password_file",
        ),
        (
            "[chain.signet]\nbackend = \"bitcoind\"\npassword_file = \"p\"",
            "chain.signet.password_file: needs user",
        ),
        (
            "[chain.signet]\nbackend = \"bitcoind\"\ncookie_file = \"c\"\nuser = \"u\"\npassword_file = \"p\"",
            "goes without user and password_file",
        ),
        (
            "[chain.signet]\nbackend = \"bitcoind\"\nuser = \"a:b\"\npassword_file = \"p\"",
            "without a colon",
        ),
        (
            "[chain.signet]\ncheck = [\"http://a.example\"]",
            "line 2: chain.signet.check: a public server needs https",
        ),
        (
            "[chain.signet]\nurl = \"https://a.example\"\ncheck = [\"https://a.example/\"]",
            "names the server of url",
        ),
        (
            "[chain.signet]\nhttp_proxy = \"https://127.0.0.1:1\"",
            "is the address of an HTTP proxy",
        ),
        ("[privacy]\nproxy = \"localhost\"", "like 127.0.0.1:9050"),
        ("[limits]\nstore_mib = 1", "use 64 to 1048576 MiB"),
        (
            "participant = 5",
            "line 1: participant: is a group of settings",
        ),
        (
            "network.name = \"signet\"",
            "network is a setting, not a group",
        ),
        (
            "\"participant.auto_join\" = true",
            "write the key without quotes",
        ),
        (
            "network = \"signet\"\nnetwork = \"signet\"",
            "config.toml, line 2: not TOML: duplicate key",
        ),
        ("network = signet", "config.toml, line 1: not TOML: "),
        ("[participant", "config.toml, line 1: not TOML: "),
    ] {
        let error = parse(text).expect_err(text);
        assert!(error.starts_with("config.toml, line "), "{error}");
        assert!(
            error.contains(expected),
            "{text:?}:\n  {error}\n  {expected}"
        );
        assert!(!error.contains('\n'), "one line: {error}");
        assert!(
            !error.contains("u:p") && !error.contains("nsec1"),
            "no secrets: {error}"
        );
    }
}

#[test]
fn later_sources_go_before_earlier_ones_and_are_named() {
    let dir = tempfile::tempdir().unwrap();
    let home = Home::locate(Some(dir.path()), None).unwrap();
    assert_eq!(Config::load(&home, [], vec![]), Ok(Config::default()));

    std::fs::write(
        home.config_path(),
        "[participant]\nmax_cohorts = 1\nmax_members = 11\nmin_members = 5\n",
    )
    .unwrap();
    let variables = environment(&[
        ("PATH", "/bin"),
        ("BTCR2_AGENT_HOME", "/elsewhere"),
        ("BTCR2_AGENT__PARTICIPANT__MAX_COHORTS", "2"),
        ("BTCR2_AGENT__PARTICIPANT__MAX_MEMBERS", " 12 "),
        (
            "BTCR2_AGENT__PARTICIPANT__ALLOWED_NETWORKS",
            "signet, regtest",
        ),
        ("BTCR2_AGENT__AGGREGATOR__INVITE_ONLY", "true"),
        ("BTCR2_AGENT__CHAIN__SIGNET__URL", "http://127.0.0.1:3002/"),
    ]);
    let flags = || {
        vec![
            Setting::from_argument("participant.max_members=13").unwrap(),
            Setting::from_flag("aggregator.beacon", "cas"),
            Setting::from_argument("privacy.proxy=127.0.0.1:9050").unwrap(),
        ]
    };
    let config = Config::load(&home, variables.clone(), flags()).unwrap();
    let participant = &config.participant;
    assert_eq!(participant.min_members, 5);
    assert_eq!(participant.max_cohorts, 2);
    assert_eq!(participant.max_members, 13);
    assert_eq!(
        participant.allowed_networks,
        [Network::Signet, Network::Regtest]
    );
    assert!(config.aggregator.invite_only);
    assert_eq!(config.aggregator.beacon, BeaconChoice::Cas);
    assert_eq!(
        config.chain.signet.url_for(Network::Signet),
        "http://127.0.0.1:3002"
    );
    assert_eq!(
        config.privacy.proxy,
        Some("127.0.0.1:9050".parse().unwrap())
    );

    let refused = |variables: &[(&str, &str)], flags: &[&str]| {
        let flags = flags.iter().map(|f| Setting::from_argument(f).unwrap());
        Config::load(&home, environment(variables), flags.collect())
            .unwrap_err()
            .to_string()
    };
    assert_eq!(
        refused(&[("BTCR2_AGENT__PARTICIPANT__MAX_COHORTS", "NaN")], &[]),
        "BTCR2_AGENT__PARTICIPANT__MAX_COHORTS: participant.max_cohorts: \
         \"NaN\" is not a whole number; use 1 to 1000 cohorts"
    );
    assert!(
        refused(&[("BTCR2_AGENT__PARTICPANT__MAX_COHORTS", "5")], &[]).starts_with(
            "BTCR2_AGENT__PARTICPANT__MAX_COHORTS: particpant.max_cohorts: unknown field"
        )
    );
    assert_eq!(
        refused(&[], &["limits.pow_bits=29"]),
        "command line: limits.pow_bits: 29 is out of range; use 0 to 28 bits"
    );
    // The file's setting is at odds with the command line's: the place to look is the file.
    let error = refused(&[], &["participant.max_members=4"]);
    assert!(
        error.ends_with(
            "config.toml, line 4: participant.min_members: is above participant.max_members, 4"
        ),
        "{error}"
    );
    let error = refused(&[], &["participant.auto_join=yes"]);
    assert!(
        error.contains("\"yes\" is neither true nor false"),
        "{error}"
    );
    assert!(Setting::from_argument("participant.auto_join").is_err());
    assert!(refused(&[], &["=5"]).contains("a setting needs a name"));
}

#[test]
fn an_unreadable_file_is_not_a_missing_one() {
    let dir = tempfile::tempdir().unwrap();
    let home = Home::locate(Some(dir.path()), None).unwrap();
    std::fs::create_dir(home.config_path()).unwrap();
    let error = Config::load(&home, [], vec![]).unwrap_err().to_string();
    assert!(
        error.starts_with("cannot read ") && error.contains("config.toml"),
        "{error}"
    );
}

#[test]
fn chain_rules_hold_for_every_network() {
    for network in Network::ALL {
        assert!(rule_for(&format!("chain.{network}.poll")).is_some());
        let error = parse(&format!("[chain.{network}]\npoll = \"2h\"\n")).unwrap_err();
        assert!(error.contains("use 1s to 1h"), "{error}");
        let default = Config::default();
        let url = default.chain.of(network).url_for(network);
        let local = network == Network::Regtest;
        assert_eq!(url.starts_with("http://127.0.0.1"), local, "{url}");
        assert_eq!(url.starts_with("https://"), !local, "{url}");
    }
}

#[test]
fn storage_is_set_by_hand_or_not_at_all() {
    let none = Config::default().cas;
    assert!(none.gateways.is_empty() && none.rpc.is_none() && none.rpc_auth_file.is_none());
    let config = parse(
        "[cas]\n\
         gateways = [\"https://dweb.link\", \"http://127.0.0.1:8080/\"]\n\
         rpc = \"http://127.0.0.1:5001\"\n\
         rpc_auth_file = \"/home/alice/auth\"\n",
    )
    .unwrap();
    let gateways: Vec<String> = config
        .cas
        .gateways
        .iter()
        .map(ToString::to_string)
        .collect();
    assert_eq!(gateways, ["https://dweb.link", "http://127.0.0.1:8080"]);
    assert_eq!(config.cas.rpc.unwrap().to_string(), "http://127.0.0.1:5001");
    for (text, expected) in [
        ("gateway = []", "unknown field `gateway`"),
        (
            "gateways = [\"http://dweb.link\"]",
            "line 2: cas.gateways: a public server needs https",
        ),
        (
            "gateways = [\"https://a.example\", \"https://a.example/\"]",
            "lists https://a.example twice",
        ),
        (
            "gateways = [\"https://a.onion\"]",
            "an onion service needs privacy.proxy",
        ),
        (
            "rpc = \"http://ipfs.example\"",
            "line 2: cas.rpc: a public server needs https",
        ),
        (
            "rpc = \"\"",
            "line 2: cas.rpc: \"\" is not the address of a service",
        ),
        (
            "rpc = \"https://alice:hunter2@ipfs.example\"",
            "line 2: cas.rpc: an address holds no user or password",
        ),
        (
            "rpc_auth_file = \"auth\"",
            "line 2: cas.rpc_auth_file: needs cas.rpc beside it",
        ),
    ] {
        let error = parse(&format!("[cas]\n{text}\n")).unwrap_err();
        assert!(error.contains(expected), "{text}: {error}");
        assert!(!error.contains("hunter2"), "{error}");
    }
}

proptest::proptest! {
    #[test]
    fn any_text_is_settings_or_one_line(text in "[a-z\\[\\]{}=\"'.,#0-9\n -]{0,80}") {
        if let Err(error) = parse(&text) {
            assert!(error.starts_with("config.toml, line "), "{error}");
            assert!(!error.contains('\n'), "{error}");
        }
    }

    #[test]
    fn any_argument_is_a_setting_or_one_line(key in "[a-z_.\"]{0,30}", text in ".{0,30}") {
        let setting = Setting::from_flag(&key, &text);
        if let Err(error) = Config::from_settings(vec![setting]) {
            let error = error.to_string();
            assert!(error.starts_with("command line: "), "{error}");
            assert!(!error.contains('\n'), "{error}");
        }
    }
}
