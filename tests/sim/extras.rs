//! What only some runs have: each makes a run longer, or is about a part that few cohorts use.
//!
//! An extra is drawn from a generator of its own, so that a seed without any is what it always was.

use btcr2_core::protocol::terms::{Deposits, Funding, OutputPolicy};

use super::config::{Config, DAY, Family, HOUR, MINUTE, START};
use super::rng::Rng;

/// One of them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Extra {
    /// The terms have a k-of-n leaf, and rounds stall.
    Fallback,
    /// A process comes back with the disk of some hours ago.
    Restore,
    /// Updates are real, and the terms take or require them whole.
    Deposits,
    /// The members pay for signals, and have what they pay protected before.
    MembersFund,
    /// The kill switch of somebody is pulled for some hours.
    MoneyStops,
    /// Somebody leaves, a seat is released, or the cohort is cancelled.
    Leaves,
    /// Fees rise above what was signed: signals are stuck, and replaced.
    Stuck,
}

impl Extra {
    pub const ALL: [Self; 7] = [
        Self::Fallback,
        Self::Restore,
        Self::Deposits,
        Self::MembersFund,
        Self::MoneyStops,
        Self::Leaves,
        Self::Stuck,
    ];

    pub const fn name(self) -> &'static str {
        match self {
            Self::Fallback => "fallback",
            Self::Restore => "restore",
            Self::Deposits => "deposits",
            Self::MembersFund => "members-fund",
            Self::MoneyStops => "money-stops",
            Self::Leaves => "leaves",
            Self::Stuck => "stuck",
        }
    }

    pub fn parse(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|extra| extra.name() == name)
    }
}

/// An old copy of a disk comes into the place of the disk.
#[derive(Debug, Clone, Copy)]
pub struct Restore {
    pub who: usize,
    pub copied_at: u64,
    pub at: u64,
}

/// The kill switch of somebody is pulled, and let go.
#[derive(Debug, Clone, Copy)]
pub struct Stops {
    pub who: usize,
    pub from: u64,
    pub until: u64,
}

/// What ends a membership or a cohort.
#[derive(Debug, Clone, Copy)]
pub enum Departure {
    Leave(usize),
    Release(usize),
    Cancel,
}

/// Adds to a run what its seed says, and what is wanted in any case.
pub fn add(config: &mut Config, wanted: Option<Extra>) {
    let mut rng = Rng::new(config.seed ^ 0x6d6f_7265);
    let some = rng.one_in(3);
    for extra in Extra::ALL {
        let often = match extra {
            Extra::Leaves | Extra::Stuck => 12,
            _ => 4,
        };
        let drawn = some && rng.one_in(often);
        let mut own = rng.fork();
        if drawn || wanted == Some(extra) {
            let added = match extra {
                Extra::Fallback => fallback(config, &mut own),
                Extra::Restore => restore(config, &mut own),
                Extra::Deposits => deposits(config, &mut own),
                Extra::MembersFund => members_fund(config, &mut own),
                Extra::MoneyStops => money_stops(config, &mut own),
                Extra::Leaves => leaves(config, &mut own),
                Extra::Stuck => stuck(config, &mut own),
            };
            if added {
                config.extras.push(extra);
            }
        }
    }
    if config.family != Family::Faults && !config.extras.is_empty() {
        // As without extras: it ends when so many rounds did.
        config.rounds = config.rounds.max(config.rounds_before + 1);
    }
    config
        .terms
        .validate()
        .expect("extras are within the ranges");
}

/// The chaos lasts this long at least.
fn chaos_of(config: &mut Config, least: u64) -> u64 {
    let chaos = config.quiet_at - START;
    if chaos < least && !config.calm {
        config.quiet_at += least - chaos;
        config.end_at += least - chaos;
        return least;
    }
    chaos
}

fn fallback(config: &mut Config, rng: &mut Rng) -> bool {
    let members = config.members as u64;
    let k = rng.range(1, members - 1);
    config.terms.output_policy = OutputPolicy::KOfN(k as u16);
    config.terms.response_seconds = rng.range(2 * HOUR, 8 * HOUR) as u32;
    config.terms.signing_seconds = rng.range(2 * HOUR, 8 * HOUR) as u32;
    config.rounds_before = config.rounds_before.max(3);
    // Who is away stalls rounds; some of the rest have to be enough.
    let chaos = chaos_of(config, 3 * DAY);
    if config.family == Family::Faults {
        for _ in 0..members - k {
            let who = rng.range(1, members) as usize;
            if rng.one_in(4) || config.peers[who].away.is_some() {
                continue;
            }
            let from = START + rng.range(4 * HOUR, chaos);
            config.peers[who].away = Some((from, rng.range(4 * HOUR, 2 * DAY)));
        }
    } else {
        let bad: Vec<usize> = (1..config.peers.len())
            .filter(|i| config.peers[*i].bad)
            .collect();
        if !bad.is_empty() && rng.one_in(2) {
            let who = *rng.pick(&bad);
            config.peers[who].silent_from = Some(START + rng.range(4 * HOUR, DAY));
            // Sessions about refunds fail then, and what they are about is spent all the same.
            if rng.one_in(2) {
                config.terms.refund_blocks = 1008;
                config.payees = true;
            }
        }
    }
    true
}

fn restore(config: &mut Config, rng: &mut Rng) -> bool {
    if config.calm {
        return false;
    }
    let chaos = chaos_of(config, 2 * DAY);
    let who = rng.below(config.members as u64 + 1) as usize;
    let copied_at = START + rng.range(2 * HOUR, chaos - 12 * HOUR);
    let at = copied_at + rng.range(HOUR, (chaos - (copied_at - START)).min(2 * DAY));
    config.restore = Some(Restore { who, copied_at, at });
    config.rounds_before = config.rounds_before.max(3);
    true
}

fn deposits(config: &mut Config, rng: &mut Rng) -> bool {
    config.terms.deposits = *rng.pick(&[Deposits::Accepted, Deposits::Required]);
    config.rounds_before = config.rounds_before.max(2);
    true
}

fn members_fund(config: &mut Config, rng: &mut Rng) -> bool {
    config.terms.funding = Funding::Members;
    config.terms.refund_blocks = *rng.pick(&[144, 1008]);
    // Advertised only.
    config.terms.cost_enrolment_sat = rng.below(50_000);
    config.terms.cost_signal_sat = rng.below(5_000);
    config.payees = true;
    true
}

fn money_stops(config: &mut Config, rng: &mut Rng) -> bool {
    let chaos = chaos_of(config, 2 * DAY);
    let chaos = if config.calm { 2 * DAY } else { chaos };
    let who = rng.below(config.members as u64 + 1) as usize;
    // Rounds follow each other closely in the first hours.
    let from = START + rng.range(HOUR, 12 * HOUR);
    let until = from + rng.range(HOUR, chaos + START - from);
    config.money_stops = Some(Stops { who, from, until });
    if rng.one_in(2) {
        // A round that waits for somebody who may not sign is over before that one may: the others signed in vain, and
        // the next round may make the very same transaction.
        config.terms.response_seconds = rng.range(2 * HOUR, 8 * HOUR) as u32;
        config.terms.signing_seconds = rng.range(2 * HOUR, 8 * HOUR) as u32;
    }
    config.rounds_before = config.rounds_before.max(3);
    true
}

fn leaves(config: &mut Config, rng: &mut Rng) -> bool {
    let who = rng.range(1, config.members as u64) as usize;
    let (departure, latest) = match rng.below(4) {
        0 => (Departure::Leave(who), 6 * HOUR),
        1 => (Departure::Release(who), HOUR),
        _ => (Departure::Cancel, DAY),
    };
    config.departs = Some((departure, START + rng.below(latest)));
    config.rounds_before = config.rounds_before.max(1);
    // Without all seats nothing comes of it.
    config.end_at = config.end_at.min(config.quiet_at + 5 * DAY);
    true
}

fn stuck(config: &mut Config, rng: &mut Rng) -> bool {
    // Blocks take what pays enough only as long as it is not quiet.
    let least = match config.family {
        Family::Faults => 18 * HOUR,
        // Such a run is over when some rounds are.
        _ => 2 * DAY,
    };
    let chaos = (config.quiet_at - START).max(least);
    config.end_at += chaos - (config.quiet_at - START);
    config.quiet_at = START + chaos;
    config.chain.block_every = match config.family {
        Family::Faults => 20 * MINUTE,
        _ => HOUR,
    };
    config.chain.fee_changes = rng.range(60, 200);
    config.chain.fee_peak = u64::from(config.terms.max_fee_rate);
    config.terms.fee_ladder = rng.pick(&[vec![1], vec![1], vec![1, 3]]).clone();
    // A signal has to be signed before it can be replaced: the lies come with the replacement.
    config.alters = config.alters.min(20);
    config.invents = config.invents.min(50);
    config.rounds_before = config.rounds_before.max(3);
    true
}
