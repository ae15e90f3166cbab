//! Terms: from a command and the settings, for people, and against the written policy.

use std::time::Duration;

use crate::agent::control::views as v;
use crate::agent::control::{ErrorCode, Failure, PeerText, request as r};
use crate::config::{self, Config};
use crate::keys::NostrKey;
use crate::nostr::RelayUrl;
use crate::protocol::admission::Admission;
use crate::protocol::funding::dearest_signal;
use crate::protocol::terms::{
    CohortBeacon, Deposits, EmptyRounds, Funding, OutputPolicy, Salt, Terms, TermsOfService,
    TextHash,
};
use crate::time::UnixTime;

/// The longest time to sign: secret nonces are destroyed after a day (DESIGN §5).
const MAX_SIGNING: u64 = Duration::from_secs(86_400).as_secs();

/// The terms a command asks for, the rest from the settings.
pub(super) fn build_terms(
    args: &r::Advertise,
    config: &Config,
    aggregator: NostrKey,
    salt: [u8; 16],
    now: UnixTime,
) -> Result<Terms, Failure> {
    let settings = &config.aggregator;
    let beacon = match args.beacon {
        v::BeaconType::Smt => CohortBeacon::Smt,
        v::BeaconType::Cas => CohortBeacon::Cas,
    };
    let network = args.network.unwrap_or(config.network);
    let opt_in = args.opt_in_s.unwrap_or(settings.formation.seconds());
    let join_by = now.plus(opt_in);
    let seats = args.seats.unwrap_or(v::Span {
        min: narrow("aggregator.min_members", settings.min_members.into())?,
        max: narrow("aggregator.max_members", settings.max_members.into())?,
    });
    let dids = args.dids_per_seat.unwrap_or(v::Span {
        min: 0,
        max: narrow(
            "aggregator.indexes_per_member",
            settings.indexes_per_member.into(),
        )?,
    });
    let response = args
        .response_deadline_s
        .unwrap_or(settings.response.seconds());
    let signing = args.sign_deadline_s.unwrap_or(settings.signing.seconds());
    if signing > MAX_SIGNING {
        return Err(Failure::new(
            ErrorCode::InvalidValue,
            "the time to sign is longer than a day: members destroy their secret nonces after that",
        )
        .remedy("give --sign-deadline 24h or less"));
    }
    let max_fee_rate = match args.max_fee_rate {
        None => settings.max_fee_rate,
        Some(rate) if rate.0 % 1_000 == 0 => narrow("--max-fee-rate", rate.0 / 1_000)?,
        Some(rate) => {
            return Err(Failure::new(
                ErrorCode::InvalidValue,
                format!("{rate} sat/vB: the ceiling in terms is a whole number of sat/vB"),
            )
            .remedy("round it up"));
        }
    };
    let output_policy = output_policy(args)?;
    let terms = Terms {
        output_policy,
        name: args.name.clone().unwrap_or_default(),
        seats_min: seats.min,
        seats_max: seats.max,
        dids_min: dids.min,
        dids_max: dids.max,
        // Members have as long to acknowledge the set as to respond to a round.
        formation_seconds: narrow("aggregator.response", response)?,
        cadence_seconds: narrow(
            "--cadence",
            args.cadence_s.unwrap_or(settings.cadence.seconds()),
        )?,
        pending_trigger: narrow(
            "--pending-trigger",
            args.pending_trigger.unwrap_or(0).into(),
        )?,
        response_seconds: narrow("--response-deadline", response)?,
        signing_seconds: narrow("--sign-deadline", signing)?,
        // Each lost nonce costs a session.
        sessions_max: u8::try_from(settings.max_nonce_losses.saturating_add(1).min(16))
            .unwrap_or(16),
        depth: narrow("--depth", args.depth.unwrap_or(settings.depth).into())?,
        empty_rounds: match args.empty_rounds {
            Some(v::EmptyRounds::Skip) => EmptyRounds::Skip,
            Some(v::EmptyRounds::Signal) => EmptyRounds::Signal,
            None => match settings.empty_rounds {
                config::EmptyRounds::Skip => EmptyRounds::Skip,
                config::EmptyRounds::Signal => EmptyRounds::Signal,
            },
        },
        deposits: match args.deposits {
            Some(v::Deposits::None) => Deposits::None,
            Some(v::Deposits::Accepted) => Deposits::Accepted,
            Some(v::Deposits::Required) => Deposits::Required,
            None => match settings.deposits {
                config::DepositsChoice::None => Deposits::None,
                config::DepositsChoice::Accepted => Deposits::Accepted,
                config::DepositsChoice::Required => Deposits::Required,
            },
        },
        max_fee_rate,
        fee_ladder: args.fee_ladder.clone().unwrap_or_else(|| vec![1, 3, 10]),
        funding: match args.fund_by.unwrap_or_default() {
            v::FundBy::Aggregator => Funding::Aggregator,
            v::FundBy::Members => Funding::Members,
        },
        cost_enrolment_sat: args.cost_enrolment_sat.unwrap_or(0),
        cost_signal_sat: args.cost_announcement_sat.unwrap_or(0),
        invite_only: args.invite_only || settings.invite_only,
        admission: match (args.admission, settings.pow_bits) {
            (Some(admission), _) => admission,
            (None, 0) => Admission::Open,
            (None, bits) => Admission::Pow(narrow("aggregator.pow_bits", bits.into())?),
        },
        tos: args.tos.as_ref().map(|tos| TermsOfService {
            sha256: TextHash::from_bytes(tos.sha256.to_bytes()),
            url: tos.link.clone(),
        }),
        ..Terms::with_defaults(aggregator, network, beacon, Salt::from_bytes(salt), join_by)
    };
    let terms = Terms {
        refund_blocks: args.refund_blocks.unwrap_or_else(|| {
            let ripe = ripe_after(terms.cadence_seconds);
            terms.refund_blocks.max(ripe)
        }),
        ..terms
    };
    terms
        .validate()
        .map_err(|error| Failure::new(ErrorCode::InvalidValue, error.to_string()))?;
    Ok(terms)
}

/// Blocks after which a refund may ripen at the earliest, by the cadence: two rounds later. A cadence too long for
/// BIP-68 gives its largest lock, which the check of the terms refuses by name.
fn ripe_after(cadence_seconds: u32) -> u16 {
    let blocks = u64::from(cadence_seconds).div_ceil(600).saturating_mul(2);
    u16::try_from(blocks).unwrap_or(u16::MAX)
}

/// The output policy a command asks for. It has no default but all of all: somebody has to want the other.
fn output_policy(args: &r::Advertise) -> Result<OutputPolicy, Failure> {
    let policy = args.output_policy.unwrap_or_default();
    match (policy, args.threshold) {
        (v::OutputPolicy::Musig2KeyPath, None) => Ok(OutputPolicy::Musig2KeyPath),
        (v::OutputPolicy::KOfN, Some(threshold)) => Ok(OutputPolicy::KOfN(threshold)),
        (v::OutputPolicy::KOfN, None) => Err(Failure::new(
            ErrorCode::InvalidValue,
            "the output policy k-of-n says how many members can sign a round that has stalled",
        )
        .remedy("give --threshold, fewer than the fewest seats")),
        (v::OutputPolicy::Musig2KeyPath, Some(_)) => Err(Failure::new(
            ErrorCode::InvalidValue,
            "a threshold belongs to the output policy k-of-n",
        )
        .remedy("give --output-policy k-of-n, or no threshold")),
    }
}

fn narrow<T: TryFrom<u64>>(name: &str, value: u64) -> Result<T, Failure> {
    T::try_from(value).map_err(|_| {
        Failure::new(
            ErrorCode::InvalidValue,
            format!("{name} is {value}, which is too large"),
        )
    })
}

/// Terms for people.
pub(super) fn terms_view(terms: &Terms, relays: &[RelayUrl]) -> v::TermsView {
    let cost = |sat: u64| (sat > 0).then_some(sat);
    v::TermsView {
        name: (!terms.name.is_empty()).then(|| PeerText::new(&terms.name)),
        network: terms.network,
        beacon: super::cohorts::beacon_view(terms.beacon),
        seats: v::Span {
            min: terms.seats_min,
            max: terms.seats_max,
        },
        threshold: match terms.output_policy {
            OutputPolicy::Musig2KeyPath => None,
            OutputPolicy::KOfN(threshold) => Some(threshold),
        },
        risk: terms.output_policy.risk(),
        dids_per_seat: v::Span {
            min: terms.dids_min,
            max: terms.dids_max,
        },
        cadence_s: cost(terms.cadence_seconds.into()),
        pending_trigger: (terms.pending_trigger > 0).then(|| terms.pending_trigger.into()),
        response_deadline_s: terms.response_seconds.into(),
        sign_deadline_s: terms.signing_seconds.into(),
        depth: terms.depth.into(),
        max_fee_rate: v::FeeRate(u64::from(terms.max_fee_rate) * 1_000),
        fee_ladder: terms.fee_ladder.clone(),
        fund_by: match terms.funding {
            Funding::Aggregator => v::FundBy::Aggregator,
            Funding::Members => v::FundBy::Members,
        },
        refund_blocks: (terms.refund_blocks > 0).then_some(terms.refund_blocks),
        empty_rounds: match terms.empty_rounds {
            EmptyRounds::Skip => v::EmptyRounds::Skip,
            EmptyRounds::Signal => v::EmptyRounds::Signal,
        },
        deposits: match terms.deposits {
            Deposits::None => v::Deposits::None,
            Deposits::Accepted => v::Deposits::Accepted,
            Deposits::Required => v::Deposits::Required,
        },
        admission: terms.admission,
        cost_enrolment_sat: cost(terms.cost_enrolment_sat),
        cost_announcement_sat: cost(terms.cost_signal_sat),
        tos: terms.tos.as_ref().map(|tos| v::TosView {
            sha256: v::TosHash::from_bytes(tos.sha256.to_bytes()),
            link: PeerText::new(&tos.url),
        }),
        opt_in_until: terms.join_by,
        relays: relays
            .iter()
            .map(|url| PeerText::new(url.as_str()))
            .collect(),
    }
}

/// What in the settings rules these terms out, each with the setting; `joined` counts this agent's live
/// memberships.
pub(super) fn objections(terms: &Terms, config: &Config, joined: usize) -> Vec<String> {
    let policy = &config.participant;
    let mut objections = Vec::new();
    let mut object = |holds: bool, text: String| {
        if holds {
            objections.push(text);
        }
    };
    object(
        terms.network.carries_value() && !config.money.mainnet,
        "money.mainnet is false".to_owned(),
    );
    object(
        !policy.allowed_networks.contains(&terms.network),
        format!(
            "participant.allowed_networks does not list {}",
            terms.network
        ),
    );
    object(
        !policy.allowed_aggregators.is_empty()
            && !policy.allowed_aggregators.contains(&terms.aggregator),
        format!(
            "participant.allowed_aggregators does not list {}",
            crate::keys::names::npub(&terms.aggregator)
        ),
    );
    object(
        u32::from(terms.seats_max) > policy.max_members,
        format!(
            "{} seats are more than participant.max_members, {}",
            terms.seats_max, policy.max_members
        ),
    );
    object(
        u32::from(terms.seats_max) < policy.min_members,
        format!(
            "{} seats are fewer than participant.min_members, {}",
            terms.seats_max, policy.min_members
        ),
    );
    object(
        terms.max_fee_rate > policy.max_fee_rate,
        format!(
            "up to {} sat/vB are more than participant.max_fee_rate, {}",
            terms.max_fee_rate, policy.max_fee_rate
        ),
    );
    let ceiling = config.fees.of(terms.network).ceiling;
    object(
        terms.max_fee_rate > ceiling,
        format!(
            "up to {} sat/vB are more than fees.{}.ceiling, {ceiling}",
            terms.max_fee_rate, terms.network
        ),
    );
    let dearest = dearest_signal(terms).to_sat();
    object(
        dearest > config.money.max_fee_sat,
        format!(
            "a signal may cost up to {dearest} sat, more than money.max_fee_sat, {}",
            config.money.max_fee_sat
        ),
    );
    object(
        joined >= usize::try_from(policy.max_cohorts).unwrap_or(usize::MAX),
        format!(
            "this agent is in {joined} cohorts, participant.max_cohorts is {}",
            policy.max_cohorts
        ),
    );
    objections
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::keys::OwnKey;
    use crate::network::Network;

    fn key() -> NostrKey {
        OwnKey::from_bytes(&[3; 32]).unwrap().public()
    }

    fn build(args: &r::Advertise) -> Result<Terms, Failure> {
        build_terms(args, &Config::default(), key(), [7; 16], UnixTime(1_000))
    }

    #[test]
    fn what_the_command_leaves_out_comes_from_the_settings() {
        let terms = build(&r::Advertise::default()).unwrap();
        let settings = Config::default().aggregator;
        assert_eq!(terms.network, Network::Signet);
        assert_eq!(u32::from(terms.seats_max), settings.max_members);
        assert_eq!(u64::from(terms.cadence_seconds), settings.cadence.seconds());
        assert_eq!(terms.join_by, UnixTime(1_000).plus(7 * 86_400));
        assert_eq!(terms.sessions_max, 4);
        assert_eq!(terms.deposits, Deposits::None);
        let mut config = Config::default();
        config.aggregator.deposits = config::DepositsChoice::Accepted;
        let by = |deposits| r::Advertise {
            deposits,
            ..r::Advertise::default()
        };
        for (args, expected) in [
            (by(None), Deposits::Accepted),
            (by(Some(v::Deposits::None)), Deposits::None),
            (by(Some(v::Deposits::Required)), Deposits::Required),
        ] {
            let terms = build_terms(&args, &config, key(), [7; 16], UnixTime(1_000)).unwrap();
            assert_eq!(terms.deposits, expected);
            let shown = terms_view(&terms, &[]).deposits;
            assert_eq!(shown.to_string(), expected.to_string());
        }

        let terms = build(&r::Advertise {
            name: Some("garden".into()),
            network: Some(Network::Regtest),
            beacon: v::BeaconType::Cas,
            seats: Some(v::Span { min: 3, max: 5 }),
            opt_in_s: Some(60),
            max_fee_rate: Some(v::FeeRate(5_000)),
            pending_trigger: Some(2),
            depth: Some(3),
            ..r::Advertise::default()
        })
        .unwrap();
        assert_eq!((terms.seats_min, terms.seats_max), (3, 5));
        assert_eq!(terms.beacon, CohortBeacon::Cas);
        assert_eq!(terms.join_by, UnixTime(1_060));
        assert_eq!((terms.max_fee_rate, terms.depth), (5, 3));
        assert_eq!(terms.pending_trigger, 2);
        assert_eq!(terms.fee_ladder, [1, 3, 10]);
        assert_eq!(terms.refund_blocks, 1_008);
        let view = terms_view(&terms, &[]);
        assert_eq!(view.max_fee_rate, v::FeeRate(5_000));
        assert_eq!(view.name.unwrap().as_str(), "garden");
    }

    #[test]
    fn who_funds_the_ladder_and_the_lock_of_refunds_are_terms() {
        let terms = build(&r::Advertise {
            fee_ladder: Some(vec![1, 5]),
            fund_by: Some(v::FundBy::Members),
            refund_blocks: Some(300),
            ..r::Advertise::default()
        })
        .unwrap();
        assert_eq!(terms.fee_ladder, [1, 5]);
        assert_eq!(
            (terms.funding, terms.refund_blocks),
            (Funding::Members, 300)
        );
        let view = terms_view(&terms, &[]);
        assert_eq!(
            (view.fund_by, view.refund_blocks),
            (v::FundBy::Members, Some(300))
        );
        // Not given, the lock follows the cadence: thirty days are 4 320 blocks.
        let monthly = build(&r::Advertise {
            cadence_s: Some(2_592_000),
            ..r::Advertise::default()
        });
        assert_eq!(monthly.unwrap().refund_blocks, 8_640);
        let none = build(&r::Advertise {
            refund_blocks: Some(0),
            ..r::Advertise::default()
        });
        assert_eq!(terms_view(&none.unwrap(), &[]).refund_blocks, None);
    }

    #[test]
    fn a_fallback_is_asked_for_and_its_risk_is_shown() {
        let of = |output_policy, threshold| r::Advertise {
            seats: Some(v::Span { min: 5, max: 7 }),
            output_policy,
            threshold,
            ..r::Advertise::default()
        };
        let terms = build(&of(Some(v::OutputPolicy::KOfN), Some(2))).unwrap();
        assert_eq!(terms.output_policy, OutputPolicy::KOfN(2));
        let view = terms_view(&terms, &[]);
        assert_eq!(view.threshold, Some(2));
        assert_eq!(
            view.risk.unwrap(),
            "any 2 seats, which the aggregator may own, can make every DID that ever listed this beacon \
             unresolvable, and a round that they sign without the others publishes the keys of all seats"
        );
        let without = terms_view(&build(&of(None, None)).unwrap(), &[]);
        assert_eq!((without.threshold, without.risk), (None, None));
        for (policy, threshold, words) in [
            (Some(v::OutputPolicy::KOfN), None, "says how many"),
            (Some(v::OutputPolicy::KOfN), Some(5), "output_policy"),
            (Some(v::OutputPolicy::KOfN), Some(0), "output_policy"),
            (None, Some(2), "belongs to"),
        ] {
            let refused = build(&of(policy, threshold)).unwrap_err();
            assert!(refused.to_string().contains(words), "{refused}");
        }
    }

    #[test]
    fn what_can_not_be_a_term_is_refused_by_name() {
        for (args, words) in [
            (
                r::Advertise {
                    max_fee_rate: Some(v::FeeRate(1_500)),
                    ..r::Advertise::default()
                },
                "whole number",
            ),
            (
                r::Advertise {
                    sign_deadline_s: Some(90_000),
                    ..r::Advertise::default()
                },
                "longer than a day",
            ),
            (
                r::Advertise {
                    fee_ladder: Some(vec![3]),
                    ..r::Advertise::default()
                },
                "fee_ladder",
            ),
            (
                r::Advertise {
                    depth: Some(300),
                    ..r::Advertise::default()
                },
                "--depth",
            ),
            (
                r::Advertise {
                    name: Some("\u{1b}[2J".into()),
                    ..r::Advertise::default()
                },
                "term name",
            ),
        ] {
            let failure = build(&args).unwrap_err();
            assert_eq!(failure.code, ErrorCode::InvalidValue);
            assert!(failure.message.contains(words), "{failure}");
        }
    }

    #[test]
    fn every_objection_names_its_setting() {
        let terms = build(&r::Advertise::default()).unwrap();
        let mut config = Config::default();
        assert_eq!(objections(&terms, &config, 0), Vec::<String>::new());
        config.participant.allowed_networks = vec![Network::Regtest];
        config.participant.allowed_aggregators =
            vec![OwnKey::from_bytes(&[4; 32]).unwrap().public()];
        config.participant.max_members = 19;
        config.participant.max_fee_rate = 49;
        config.participant.max_cohorts = 1;
        let found = objections(&terms, &config, 1);
        for setting in [
            "allowed_networks",
            "allowed_aggregators",
            "max_members",
            "max_fee_rate",
            "max_cohorts",
        ] {
            assert!(
                found
                    .iter()
                    .any(|o| o.contains(&format!("participant.{setting}"))),
                "{setting}: {found:?}"
            );
        }
        assert_eq!(found.len(), 5);
    }
}
