//! `cohort …`

use clap::{Args, Subcommand};

use super::admission::{ApproveArgs, CodeCommand, MigrateArgs, ReformArgs, RejectArgs};
use super::psbt::CohortPsbtArgs;
use super::refund::RecoverFundsArgs;
use super::values::{JoinArg, http_url, relay_url, seconds};
use crate::agent::control::request::{CohortRef, KeyRef, SeatKey};
use crate::agent::control::views::{
    BeaconType, Deposits, EmptyRounds, FeeRate, FundBy, OutputPolicy, Span, TosHash,
};
use crate::network::Network;
use crate::protocol::admission::Admission;

/// Commands on cohorts.
#[derive(Debug, Subcommand)]
pub enum CohortCommand {
    /// Aggregator: offer a cohort with these terms
    Advertise(Box<AdvertiseArgs>),
    /// Look for cohorts on relays
    Discover(DiscoverArgs),
    /// Show a cohort's terms, ask, and opt in
    Join(JoinArgs),
    /// List the cohorts of this agent, in both roles
    List(ListArgs),
    /// Show one cohort: members, beacon, rounds, delivery of every message
    Show(ShowArgs),
    /// Show what to pay to the beacon address, for how many rounds
    Fund(FundArgs),
    /// Show what is being signed now as PSBTs, for other tools (members sign what they rebuilt, never a PSBT)
    Psbt(CohortPsbtArgs),
    /// Send the refund of what lies at the beacon address, once its lock is over
    Recover(RecoverFundsArgs),
    /// Open a round now (aggregator), or ask the aggregator to (member)
    #[command(after_help = "Example:\n  btcr2-agent cohort announce 3f9a0c12")]
    Announce(OneCohortArgs),
    /// Aggregator: replace the unconfirmed signal by the one that pays more
    #[command(
        after_help = "Every round signs its signal at several fees (`fee_ladder` of the terms). A signal that waits \
        for six blocks while the chain asks for more is replaced by itself; this does it now.\n\n\
        Example:\n  btcr2-agent cohort bump 3f9a0c12"
    )]
    Bump(OneCohortArgs),
    /// Aggregator: take no more opt-ins and fix the set with the members seated so far
    #[command(after_help = "Example:\n  btcr2-agent cohort close 3f9a0c12")]
    Close(OneCohortArgs),
    /// Aggregator: end the cohort; refused once a partial signature was given
    #[command(after_help = "Example:\n  btcr2-agent cohort cancel 3f9a0c12 --yes")]
    Cancel(EndArgs),
    /// Mark the alarms of a cohort as seen: they are not shown any more
    #[command(after_help = "Example:\n  btcr2-agent cohort acknowledge 3f9a0c12")]
    Acknowledge(OneCohortArgs),
    /// Member: leave; after the set froze this ends the beacon for all
    Leave(LeaveArgs),
    /// Aggregator: send the terms directly to keys
    Invite(InviteArgs),
    /// Aggregator: show who waits for your decision about a seat
    #[command(after_help = "Example:\n  btcr2-agent cohort applicants 3f9a0c12")]
    Applicants(OneCohortArgs),
    /// Aggregator: give a key a seat
    Approve(ApproveArgs),
    /// Aggregator: give a key no seat, or take the one it has while seats are open
    Reject(RejectArgs),
    /// Aggregator: invite codes, where the terms ask for one
    #[command(
        subcommand,
        after_help = "Example:\n  btcr2-agent cohort code new 3f9a0c12 --uses 5"
    )]
    Code(CodeCommand),
    /// Aggregator: offer the members of a cohort that stalls a new one without some seats
    Reform(ReformArgs),
    /// Member: move DIDs from a cohort's beacon to that of the one that took its place
    Migrate(MigrateArgs),
}

/// Arguments of `cohort advertise`.
#[derive(Debug, Clone, Args)]
#[command(after_help = "Examples:\n  \
    btcr2-agent cohort advertise --name garden --seats 3-10 --cadence 7d\n  \
    btcr2-agent cohort advertise --beacon cas --seats 3 --max-fee-rate 5 --invite npub1… --invite npub1…\n  \
    btcr2-agent cohort advertise --seats 5-7 --output-policy k-of-n --threshold 3\n  \
    btcr2-agent cohort advertise --seats 3-10 --admission code\n\n\
    The terms are fixed once advertised: the cohort id is their hash. Terms not given have the defaults \
    of docs/protocol.md.")]
pub struct AdvertiseArgs {
    /// Name for people
    #[arg(long, value_name = "TEXT", value_parser = name)]
    pub name: Option<String>,
    /// Network of the beacon and of the DIDs it covers [default: the configured one]
    #[arg(long)]
    pub network: Option<Network>,
    /// Beacon type: smt hides DIDs and updates from the aggregator, cas is a plain map
    #[arg(long, value_enum, default_value_t)]
    pub beacon: BeaconType,
    /// Members: a number, or fewest-most (all of them must sign every round)
    #[arg(long, value_name = "MIN[-MAX]")]
    pub seats: Option<Span<u16>>,
    /// Who can spend from the beacon: k-of-n lets --threshold members sign a round that has stalled; they could
    /// also make every DID that ever listed this beacon unresolvable
    #[arg(long, value_enum)]
    pub output_policy: Option<OutputPolicy>,
    /// How many members can sign a round that has stalled: fewer than the fewest seats
    #[arg(long, value_name = "K", requires = "output_policy", value_parser = clap::value_parser!(u16).range(1..))]
    pub threshold: Option<u16>,
    /// DIDs that one seat registers: a number, or fewest-most
    #[arg(long, value_name = "MIN[-MAX]")]
    pub dids_per_seat: Option<Span<u16>>,
    /// Time between the openings of two rounds, such as 7d
    #[arg(long, value_name = "DURATION", value_parser = seconds)]
    pub cadence: Option<u64>,
    /// Open a round early when this many updates are pending
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    pub pending_trigger: Option<u32>,
    /// Time members have to respond to a round's opening
    #[arg(long, value_name = "DURATION", value_parser = seconds)]
    pub response_deadline: Option<u64>,
    /// Time members have to sign
    #[arg(long, value_name = "DURATION", value_parser = seconds)]
    pub sign_deadline: Option<u64>,
    /// Confirmations of a signal before the next one is signed
    #[arg(long, value_name = "BLOCKS", value_parser = clap::value_parser!(u32).range(1..=100))]
    pub depth: Option<u32>,
    /// Highest fee rate that members can be asked to sign, in sat/vB
    #[arg(long, value_name = "SAT/VB")]
    pub max_fee_rate: Option<FeeRate>,
    /// Multiples of a round's fee rate that the signal is signed at, to replace one that is stuck: 1 to 3, from 1 up
    #[arg(long, value_name = "1,N,N", value_delimiter = ',')]
    pub fee_ladder: Option<Vec<u8>>,
    /// Who pays for signals and is paid back by refunds; members in equal shares
    #[arg(long, value_enum)]
    pub fund_by: Option<FundBy>,
    /// Blocks after which an unused beacon output can be paid back; 0 for no refunds
    #[arg(long, value_name = "BLOCKS")]
    pub refund_blocks: Option<u16>,
    /// Address that refunds pay you [default: the first taproot address (BIP-86) of your words]
    #[arg(long, value_name = "ADDRESS")]
    pub refund_to: Option<String>,
    /// A round without updates: no transaction, or a signal all the same
    #[arg(long, value_enum)]
    pub empty_rounds: Option<EmptyRounds>,
    /// Whether members may, or must, show you the updates they want announced: you verify and keep them
    #[arg(long, value_enum)]
    pub deposits: Option<Deposits>,
    /// Price of a seat, in sat (advertised; this program settles nothing)
    #[arg(long, value_name = "SAT")]
    pub cost_enrolment: Option<u64>,
    /// Price of one announcement, in sat (advertised; this program settles nothing)
    #[arg(long, value_name = "SAT")]
    pub cost_announcement: Option<u64>,
    /// SHA-256 of the terms of service, 64 hex digits
    #[arg(long, value_name = "HEX", requires = "tos_link")]
    pub tos_sha256: Option<TosHash>,
    /// Where the terms of service can be read
    #[arg(long, value_name = "URL", requires = "tos_sha256", value_parser = http_url)]
    pub tos_link: Option<String>,
    /// Take opt-ins for this long from now, such as 3d
    #[arg(long, value_name = "DURATION", value_parser = seconds)]
    pub opt_in_deadline: Option<u64>,
    /// Who is seated: anybody (open), who does proof of work (pow:20), whom you approve (approval), who has a code
    #[arg(long, value_name = "open|pow:BITS|approval|code")]
    pub admission: Option<Admission>,
    /// Publish no advert: the terms go to invited keys only
    #[arg(long)]
    pub invite_only: bool,
    /// Send the terms to this key and publish no advert (npub, nprofile or hex; repeatable)
    #[arg(long, value_name = "KEY")]
    pub invite: Vec<KeyRef>,
}

/// A name: something visible, short enough for a table.
fn name(text: &str) -> Result<String, &'static str> {
    let text = text.trim();
    if text.is_empty() || text.chars().count() > 64 || text.chars().any(char::is_control) {
        return Err("a name has 1 to 64 characters on one line");
    }
    Ok(text.to_owned())
}

/// Arguments of `cohort discover`.
#[derive(Debug, Clone, Args)]
#[command(after_help = "Examples:\n  \
    btcr2-agent cohort discover --network signet --beacon smt\n  \
    btcr2-agent cohort discover --min-seats 5 --max-seats 20 --json\n\n\
    The numbers in the first column can be given to `btcr2-agent cohort join`.")]
pub struct DiscoverArgs {
    /// Only this network [default: the configured one]
    #[arg(long)]
    pub network: Option<Network>,
    /// Only this beacon type
    #[arg(long, value_enum)]
    pub beacon: Option<BeaconType>,
    /// Only cohorts that may have at least this many members
    #[arg(long, value_name = "N")]
    pub min_seats: Option<u16>,
    /// Only cohorts that have at most this many members
    #[arg(long, value_name = "N")]
    pub max_seats: Option<u16>,
    /// Only cohorts of this aggregator (npub, nprofile or hex)
    #[arg(long, value_name = "KEY")]
    pub aggregator: Option<KeyRef>,
    /// Also full, running, closed, expired and malformed ones
    #[arg(long, short)]
    pub all: bool,
    /// Ask this relay instead of the configured ones (repeatable)
    #[arg(long = "relay", value_name = "URL", value_parser = relay_url)]
    pub relays: Vec<String>,
    /// How long to wait for slow relays
    #[arg(long, value_name = "DURATION", value_parser = seconds)]
    pub timeout: Option<u64>,
}

/// Arguments of `cohort join`.
#[derive(Debug, Clone, Args)]
#[command(after_help = "Examples:\n  \
    btcr2-agent cohort join 2                  the second of the last `cohort discover`\n  \
    btcr2-agent cohort join naddr1… --yes      accept the terms (and terms of service) without being asked\n  \
    btcr2-agent cohort join naddr1… --code invite1…")]
pub struct JoinArgs {
    /// Share link (naddr1…), cohort id, or number of the last `cohort discover`
    #[arg(value_name = "COHORT")]
    pub target: JoinArg,
    /// Accept the terms without asking
    #[arg(long, short)]
    pub yes: bool,
    /// Key that takes the seat: a fresh one, or the agent's identity
    #[arg(long, value_enum, default_value_t)]
    pub seat: SeatKey,
    /// Address that refunds pay you, where members fund [default: the first taproot address (BIP-86) of your words]
    #[arg(long = "refund-to", alias = "payee", value_name = "ADDRESS")]
    pub payee: Option<String>,
    /// Invite code, where the terms ask for one
    #[arg(long, value_name = "CODE")]
    pub code: Option<String>,
    /// Proof of work to do, in bits; where the operator approves, more keeps your place among many that wait
    #[arg(long, value_name = "BITS", value_parser = clap::value_parser!(u8).range(1..=28))]
    pub work: Option<u8>,
}

/// Arguments of `cohort list`.
#[derive(Debug, Clone, Args)]
#[command(after_help = "Example:\n  btcr2-agent cohort list --all")]
pub struct ListArgs {
    /// Also cohorts that have ended
    #[arg(long, short)]
    pub all: bool,
}

/// Arguments of `cohort show`.
#[derive(Debug, Clone, Args)]
#[command(after_help = "Examples:\n  \
    btcr2-agent cohort show 3f9a0c12\n  \
    btcr2-agent cohort show 3f9a0c12 --follow")]
pub struct ShowArgs {
    /// Cohort id, or the first four or more digits of it
    pub cohort: CohortRef,
    /// How many past rounds to show
    #[arg(long, value_name = "N", default_value_t = 10)]
    pub rounds: u32,
    /// Then print its events as they happen, until interrupted
    #[arg(long, short)]
    pub follow: bool,
}

/// Arguments of `cohort fund`.
#[derive(Debug, Clone, Args)]
#[command(after_help = "Examples:\n  \
    btcr2-agent cohort fund 3f9a0c12 --rounds 52\n  \
    btcr2-agent cohort fund 3f9a0c12 --fee-rate 2.5 --no-qr")]
pub struct FundArgs {
    /// Cohort id, or the first four or more digits of it
    pub cohort: CohortRef,
    /// For how many rounds
    #[arg(long, value_name = "N", default_value_t = 10, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    pub rounds: u32,
    /// At which fee rate, in sat/vB [default: the chain backend's estimate]
    #[arg(long, value_name = "SAT/VB")]
    pub fee_rate: Option<FeeRate>,
    /// Leave the QR code out
    #[arg(long)]
    pub no_qr: bool,
    /// Aggregator: a funding transaction (PSBT) whose refund all members shall sign before it is sent; `-` reads it
    #[arg(long, value_name = "FILE", conflicts_with_all = ["rounds", "fee_rate"])]
    pub psbt: Option<std::path::PathBuf>,
    /// Send the (signed) PSBT once its refund is complete
    #[arg(long, requires = "psbt")]
    pub broadcast: bool,
    /// How long to wait for the members [default: what the terms give them]
    #[arg(long, value_name = "DURATION", value_parser = seconds, requires = "psbt")]
    pub wait: Option<u64>,
}

/// A cohort.
#[derive(Debug, Clone, Args)]
pub struct OneCohortArgs {
    /// Cohort id, or the first four or more digits of it
    pub cohort: CohortRef,
}

/// Arguments of `cohort leave`.
#[derive(Debug, Clone, Args)]
#[command(after_help = "Examples:\n  \
    btcr2-agent cohort leave 3f9a0c12 --plan             which DIDs list its beacon, and what to do\n  \
    btcr2-agent cohort leave 3f9a0c12 --remove-beacons   queue the updates that remove it\n  \
    btcr2-agent cohort leave 3f9a0c12                    leave, after these are final")]
pub struct LeaveArgs {
    /// Cohort id, or the first four or more digits of it
    pub cohort: CohortRef,
    /// Only say what leaving means, and what has to be done before
    #[arg(long)]
    pub plan: bool,
    /// Queue the updates that take its beacon out of this agent's DIDs; leave later
    #[arg(long, conflicts_with = "plan")]
    pub remove_beacons: bool,
    /// Leave although a DID has no other beacon and could never be updated again
    #[arg(long, conflicts_with_all = ["plan", "remove_beacons"])]
    pub abandon_dids: bool,
    /// Leave without asking
    #[arg(long, short)]
    pub yes: bool,
}

/// Arguments of `cohort cancel`.
#[derive(Debug, Clone, Args)]
pub struct EndArgs {
    /// Cohort id, or the first four or more digits of it
    pub cohort: CohortRef,
    /// Do it without asking
    #[arg(long, short)]
    pub yes: bool,
}

/// Arguments of `cohort invite`.
#[derive(Debug, Clone, Args)]
#[command(after_help = "Example:\n  btcr2-agent cohort invite 3f9a0c12 npub1… npub1…")]
pub struct InviteArgs {
    /// Cohort id, or the first four or more digits of it
    pub cohort: CohortRef,
    /// To whom the terms are sent (npub, nprofile or hex)
    #[arg(required = true, value_name = "KEY")]
    pub keys: Vec<KeyRef>,
}
