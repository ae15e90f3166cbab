//! What a seed means: who is there, what the terms are, and which faults are on.
//!
//! Swarm testing: each run has a random subset of the faults. With all of them on in every run, nothing would ever
//! get far enough to break in the interesting places.

use btcr2_core::network::Network;
use btcr2_core::protocol::participant::{Decline, SigningPolicy};
use btcr2_core::protocol::terms::{CohortBeacon, EmptyRounds, Funding, Salt, Terms};
use btcr2_core::time::UnixTime;

use super::extras::{self, Departure, Extra, Restore, Stops};
use super::members::key;
use super::rng::Rng;

pub const START: u64 = 1_800_000_000;
pub const MINUTE: u64 = 60;
pub const HOUR: u64 = 3_600;
pub const DAY: u64 = 24 * HOUR;

/// What a run is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Family {
    /// Everybody is honest; relays, processes and the chain are not reliable, until they are. Then every round has to
    /// end in a confirmed signal.
    Faults,
    /// Some members send whatever their keys can sign; the aggregator is honest.
    BadMembers,
    /// The aggregator sends whatever its key can sign, and some members may be with it.
    BadAggregator,
}

/// What is wrong with a relay.
#[derive(Debug, Clone, Default)]
pub struct RelayFaults {
    /// In a thousand events: not taken, and nothing said.
    pub drops: u64,
    /// In a thousand events: "OK", and gone.
    pub forgets: u64,
    /// In a thousand deliveries: not pushed; only a later query finds it.
    pub misses: u64,
    /// In a thousand deliveries: pushed again.
    pub repeats: u64,
    /// The longest delay of a delivery in seconds.
    pub delay: u64,
    /// Refuses our kind.
    pub blocks: bool,
    /// The largest message it takes, in bytes.
    pub max_bytes: Option<usize>,
    /// Events it takes in a minute from one author.
    pub per_minute: Option<u64>,
    /// Takes everything and serves nobody.
    pub black_hole: bool,
    /// In a thousand deliveries: the subscription is closed, and reopened minutes later.
    pub closes: u64,
    /// Never says that the stored events are through: only the newest come.
    pub no_eose: bool,
    /// Refuses in a thousand events for the date, whatever it is.
    pub wrong_clock: u64,
    /// Seconds between two disappearances, each of up to a few hours.
    pub vanishes: Option<u64>,
    /// Gone for good from then on.
    pub gone_at: Option<u64>,
}

/// What is wrong with a peer.
#[derive(Debug, Clone, Default)]
pub struct PeerFaults {
    /// How far its clock is off, in seconds.
    pub skew: i64,
    /// Mean number of steps between two crashes.
    pub crash_every: Option<u64>,
    /// Away from then, and for so long: seconds.
    pub away: Option<(u64, u64)>,
    /// When it leaves.
    pub leaves_at: Option<u64>,
    /// Whether it sends what its key can sign.
    pub bad: bool,
    /// Never says anything any more from then on.
    pub silent_from: Option<u64>,
}

#[derive(Debug, Clone, Default)]
pub struct ChainFaults {
    /// Mean seconds between blocks.
    pub block_every: u64,
    /// In a thousand blocks: a reorganisation of up to so many blocks.
    pub reorgs: u64,
    pub reorg_depth: u32,
    /// In a thousand blocks: the fee rate changes.
    pub fee_changes: u64,
    /// The highest fee rate.
    pub fee_peak: u64,
    /// In a thousand broadcasts: the node refuses for no reason.
    pub rejects: u64,
    /// In a thousand reorganisations' transactions: forgotten altogether.
    pub forgets: u64,
    /// The longest time until somebody sees what the chain did.
    pub lag: u64,
    /// In a thousand blocks: somebody pays something to the beacon.
    pub gifts: u64,
}

/// One run.
#[derive(Debug, Clone)]
pub struct Config {
    pub seed: u64,
    pub family: Family,
    pub terms: Terms,
    pub members: usize,
    pub dids: Vec<usize>,
    pub policies: Vec<SigningPolicy>,
    pub payees: bool,
    pub relays: Vec<RelayFaults>,
    /// By process: 0 is the aggregator.
    pub peers: Vec<PeerFaults>,
    pub chain: ChainFaults,
    /// Sat paid to the beacon once the set is frozen.
    pub funds: u64,
    /// From then on relay 0 is honest, nobody crashes, all are there, and blocks come.
    pub quiet_at: u64,
    /// Rounds to be confirmed after that.
    pub rounds: u32,
    /// Rounds opened before that at most.
    pub rounds_before: u32,
    /// When the run is given up.
    pub end_at: u64,
    /// In a thousand messages of a bad peer: altered, and one more made up.
    pub alters: u64,
    pub invents: u64,
    /// Whether everything but the bad peers works.
    pub calm: bool,
    /// The first DIDs that are registered at once; the others wait for a signal on the chain.
    pub early_dids: usize,
    /// What this run has that few have.
    pub extras: Vec<Extra>,
    pub restore: Option<Restore>,
    pub money_stops: Option<Stops>,
    pub departs: Option<(Departure, u64)>,
}

impl Config {
    pub fn draw(seed: u64, family: Option<Family>) -> Self {
        Self::draw_with(seed, family, None)
    }

    /// The run of a seed, with one of the extras whatever the seed says.
    pub fn draw_with(seed: u64, family: Option<Family>, extra: Option<Extra>) -> Self {
        let mut config = Self::draw_plain(seed, family);
        extras::add(&mut config, extra);
        config
    }

    fn draw_plain(seed: u64, family: Option<Family>) -> Self {
        let mut rng = Rng::new(seed ^ 0x6274_6372_3273_696d);
        let drawn = match rng.below(4) {
            0 | 1 => Family::Faults,
            2 => Family::BadMembers,
            _ => Family::BadAggregator,
        };
        let family = family.unwrap_or(drawn);
        // Small cohorts are as good at finding faults as large ones, and cheaper: one of seven costs as much as ten of
        // two. The same with a short chaos and a long one.
        let members = match rng.below(100) {
            0..60 => 2,
            60..86 => 3,
            86..94 => 4,
            94..98 => 5,
            _ => 7,
        };
        let calm = family != Family::Faults && rng.one_in(2);
        let chain = chain_faults(&mut rng, calm);
        let chaos = match rng.below(9) {
            _ if calm => 0,
            // A signal has to confirm before it can be undone.
            0..3 if chain.reorgs > 0 => rng.range(8 * HOUR, 16 * HOUR),
            0..3 => 0,
            3..7 => rng.range(HOUR, 8 * HOUR),
            _ => rng.range(8 * HOUR, 2 * DAY),
        };
        let mut terms = terms(&mut rng, members, seed);
        if family != Family::Faults {
            // Rounds that somebody spoils should end soon, so that there is another one to spoil.
            terms.response_seconds = rng.range(4 * HOUR, 12 * HOUR) as u32;
            terms.signing_seconds = rng.range(4 * HOUR, 12 * HOUR) as u32;
        }
        let mut rounds = *rng.pick(&[1, 1, 1, 2]);
        let mut rounds_before = *rng.pick(&[0, 1, 1, 2]);
        if chain.reorgs > 0 {
            rounds_before = rounds_before.max(1);
        }
        if family != Family::Faults {
            // Nothing has to go well, so that nobody waits until it might.
            rounds += rounds_before.max(1);
        }
        let mut relays: Vec<RelayFaults> = (0..*rng.pick(&[1, 2, 2, 3, 3, 4]))
            .map(|_| relay_faults(&mut rng, calm))
            .collect();
        if relays.iter().all(|relay| relay.gone_at.is_some()) {
            relays[0].gone_at = None;
        }
        let mut peers: Vec<PeerFaults> = (0..=members)
            .map(|_| peer_faults(&mut rng, calm, chaos))
            .collect();
        match family {
            Family::Faults => {
                if rng.one_in(20) {
                    let who = rng.range(1, members as u64) as usize;
                    peers[who].leaves_at = Some(START + rng.below(3 * DAY));
                }
            }
            Family::BadMembers => {
                let first = rng.range(1, members as u64) as usize;
                peers[first].bad = true;
                for peer in &mut peers[1..] {
                    peer.bad |= rng.one_in(4);
                }
                if rng.one_in(6) {
                    peers[first].silent_from = Some(START + rng.below(12 * HOUR));
                    // Sessions about refunds fail then, and are held again.
                    terms.refund_blocks = 1008;
                    if !calm {
                        peers[0].crash_every = Some(*rng.pick(&[5, 20, 60]));
                    }
                }
            }
            Family::BadAggregator => {
                peers[0].bad = true;
                for peer in &mut peers[1..] {
                    peer.bad |= rng.one_in(4);
                }
            }
        }
        let policies = (0..members)
            .map(|_| SigningPolicy {
                max_fee_rate: terms.max_fee_rate,
                max_fee_sat: 100_000,
                decline: if rng.one_in(2) {
                    Decline::Idle
                } else {
                    Decline::NoUpdate
                },
            })
            .collect();
        Self {
            seed,
            family,
            members,
            dids: (0..members)
                .map(|_| *rng.pick(&[1, 1, 1, 2, 2, 0]))
                .enumerate()
                .map(|(i, dids)| if i == 0 { dids.max(1) } else { dids })
                .collect(),
            policies,
            payees: rng.one_in(2)
                || terms.funding == Funding::Members
                || peers.iter().any(|peer| peer.silent_from.is_some()),
            relays,
            peers,
            chain,
            funds: rng.range(100_000, 400_000),
            quiet_at: START + chaos,
            rounds,
            rounds_before,
            end_at: START
                + chaos
                + if family == Family::Faults {
                    60 * DAY
                } else {
                    4 * DAY
                },
            alters: *rng.pick(&[20, 60, 150, 250]),
            invents: *rng.pick(&[0, 50, 150, 400]),
            calm,
            early_dids: *rng.pick(&[1, 1, 8]),
            extras: Vec::new(),
            restore: None,
            money_stops: None,
            departs: None,
            terms,
        }
    }

    /// One line that says what is on.
    pub fn describe(&self) -> String {
        let on = |what: &str, is: bool| {
            if is {
                format!(" {what}")
            } else {
                String::new()
            }
        };
        let mut text = format!(
            "{:?} {} n={} relays={} ladder={:?} depth={} quiet after {} h",
            self.family,
            self.terms.beacon,
            self.members,
            self.relays.len(),
            self.terms.fee_ladder,
            self.terms.depth,
            (self.quiet_at - START) / HOUR,
        );
        text += &on("payees", self.payees);
        text += &on("calm", self.calm);
        text += &on("reorgs", self.chain.reorgs > 0);
        text += &on("rejects", self.chain.rejects > 0);
        text += &on("fees", self.chain.fee_changes > 0);
        text += &on(
            "crashes",
            self.peers.iter().any(|p| p.crash_every.is_some()),
        );
        text += &on("away", self.peers.iter().any(|p| p.away.is_some()));
        text += &on("leaves", self.peers.iter().any(|p| p.leaves_at.is_some()));
        for extra in &self.extras {
            text += &format!(" {}", extra.name());
        }
        let bad: Vec<usize> = (0..self.peers.len())
            .filter(|i| self.peers[*i].bad)
            .collect();
        if !bad.is_empty() {
            text += &format!(
                " bad={bad:?} alters={} invents={}",
                self.alters, self.invents
            );
        }
        text
    }
}

fn terms(rng: &mut Rng, members: usize, seed: u64) -> Terms {
    let beacon = *rng.pick(&[CohortBeacon::Smt, CohortBeacon::Cas]);
    let mut salt = [0; 16];
    salt[..8].copy_from_slice(&seed.to_be_bytes());
    let mut terms = Terms::with_defaults(
        key("aggregator").public(),
        Network::Regtest,
        beacon,
        Salt::from_bytes(salt),
        UnixTime(START + 20 * DAY),
    );
    terms.seats_max = members as u16;
    terms.seats_min = members as u16;
    terms.formation_seconds = (15 * DAY) as u32;
    terms.response_seconds = rng.range(2 * DAY, 4 * DAY) as u32;
    terms.signing_seconds = rng.range(2 * DAY, 4 * DAY) as u32;
    terms.sessions_max = rng.range(2, 16) as u8;
    terms.depth = *rng.pick(&[1, 1, 1, 2, 3]);
    terms.empty_rounds = *rng.pick(&[EmptyRounds::Skip, EmptyRounds::Signal]);
    terms.fee_ladder = rng
        .pick(&[vec![1], vec![1], vec![1], vec![1, 4], vec![1, 3, 10]])
        .clone();
    terms.max_fee_rate = *rng.pick(&[20, 50]);
    terms.refund_blocks = *rng.pick(&[0, 1008, 1008]);
    terms.validate().expect("drawn within the ranges");
    terms
}

fn relay_faults(rng: &mut Rng, calm: bool) -> RelayFaults {
    let mut faults = RelayFaults {
        delay: 2,
        ..RelayFaults::default()
    };
    if calm {
        return faults;
    }
    let mut on = |n| rng.one_in(n);
    let (drops, forgets, misses, repeats, slow) = (on(3), on(6), on(3), on(3), on(4));
    let (blocks, small, paced, hole) = (on(10), on(10), on(6), on(8));
    let (closes, no_eose, clock, vanishes, gone) = (on(4), on(6), on(8), on(4), on(10));
    if drops {
        faults.drops = rng.range(10, 500);
    }
    if forgets {
        faults.forgets = rng.range(10, 300);
    }
    if misses {
        faults.misses = rng.range(10, 500);
    }
    if repeats {
        faults.repeats = rng.range(50, 900);
    }
    if slow {
        faults.delay = *rng.pick(&[60, 10 * MINUTE, 6 * HOUR]);
    }
    faults.blocks = blocks;
    faults.max_bytes = small.then(|| rng.range(600, 4_000) as usize);
    faults.per_minute = paced.then(|| rng.range(1, 20));
    faults.black_hole = hole;
    if closes {
        faults.closes = rng.range(10, 200);
    }
    faults.no_eose = no_eose;
    if clock {
        faults.wrong_clock = rng.range(100, 1_000);
    }
    faults.vanishes = vanishes.then(|| rng.range(2 * HOUR, 2 * DAY));
    faults.gone_at = gone.then(|| START + rng.below(3 * DAY));
    faults
}

fn peer_faults(rng: &mut Rng, calm: bool, chaos: u64) -> PeerFaults {
    let mut faults = PeerFaults::default();
    if calm {
        return faults;
    }
    if rng.one_in(2) {
        faults.skew = rng.range(0, 30 * MINUTE) as i64 - (15 * MINUTE) as i64;
    }
    if rng.one_in(3) {
        faults.crash_every = Some(*rng.pick(&[5, 20, 60, 100]));
    }
    if chaos > 0 && rng.one_in(6) {
        faults.away = Some((START + rng.below(chaos), rng.range(2 * HOUR, 3 * DAY)));
    }
    faults
}

fn chain_faults(rng: &mut Rng, calm: bool) -> ChainFaults {
    let mut faults = ChainFaults {
        block_every: HOUR,
        lag: 60,
        fee_peak: 5,
        ..ChainFaults::default()
    };
    if calm {
        return faults;
    }
    faults.block_every = *rng.pick(&[20 * MINUTE, HOUR, 4 * HOUR]);
    if rng.one_in(3) {
        faults.reorgs = rng.range(50, 500);
        faults.reorg_depth = rng.range(1, 4) as u32;
    }
    if rng.one_in(3) {
        faults.fee_changes = rng.range(50, 400);
        faults.fee_peak = rng.range(5, 120);
    }
    if rng.one_in(4) {
        faults.rejects = rng.range(50, 500);
    }
    if rng.one_in(4) {
        faults.forgets = rng.range(50, 500);
    }
    faults.lag = *rng.pick(&[1, 60, HOUR]);
    if rng.one_in(4) {
        faults.gifts = rng.range(10, 100);
    }
    faults
}
