//! What the operations take.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

pub use super::request_admission::{CodeText, Codes, DecideSeat, Migrate, ReformCohort};
pub use super::request_keeping::{Backup, SidecarOf, VerifyDids};
pub use super::request_money::{DecodeTx, InspectPsbt, StopMoney, StopReason, TxRef};
pub use super::request_publish::DidArtifacts;
pub use super::request_refund::{FundPsbt, Recover};
pub use super::request_singleton::{AnnounceDid, BindDid};
pub use super::request_update::{
    AnnounceBy, BeaconSpec, CreateDid, DidChange, Disclose, LeaveCohort, ParseBeaconError,
    UpdateDid, WithdrawUpdate,
};
use super::views::{
    BeaconType, Deposits, EmptyRounds, FeeRate, FundBy, OutputPolicy, Span, TosHash,
};
use crate::hash::CohortId;
use crate::keys::NostrKey;
use crate::network::Network;
use crate::protocol::admission::Admission;

/// Why a text of the command line or of a request is not what it should be.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ParseNameError {
    /// Not the whole or the beginning of a cohort id.
    #[error(
        "a cohort id is 64 lower-case hex digits; its first 4 or more will do when they fit one cohort"
    )]
    Cohort,
    /// Not something one can join.
    #[error(
        "join takes an naddr1…, a cohort id (64 hex digits) or a number of the last `cohort discover`"
    )]
    JoinTarget,
    /// Not a public key of Nostr.
    #[error("a Nostr key is an npub1…, an nprofile1… or 64 lower-case hex digits")]
    Key,
    /// Not a transaction.
    #[error("a transaction is its id (64 hex digits) or all of it in hex")]
    Tx,
    /// Not a did:btcr2 identifier.
    #[error("a DID starts with did:btcr2: and has no spaces")]
    Did,
}

/// Makes a newtype over a checked string whose serde form runs the check again.
macro_rules! checked_text {
    ($(#[$doc:meta])* $name:ident, $error:expr, $accepts:expr) => {
        $(#[$doc])*
        #[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
        #[serde(try_from = "String", into = "String")]
        pub struct $name(String);

        impl $name {
            /// The text.
            #[must_use]
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl FromStr for $name {
            type Err = ParseNameError;
            fn from_str(text: &str) -> Result<Self, Self::Err> {
                let accepts: fn(&str) -> bool = $accepts;
                if accepts(text) { Ok(Self(text.to_owned())) } else { Err($error) }
            }
        }

        impl TryFrom<String> for $name {
            type Error = ParseNameError;
            fn try_from(text: String) -> Result<Self, Self::Error> {
                text.parse()
            }
        }

        impl From<$name> for String {
            fn from(name: $name) -> Self {
                name.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }
    };
}

checked_text!(
    /// A cohort this agent knows: its id, or the first four or more hex digits of it.
    CohortRef, ParseNameError::Cohort, |text| (4..=64).contains(&text.len())
        && text.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b))
);
checked_text!(
    /// The share link of a cohort (NIP-19 `naddr1…`, also with the `nostr:` prefix of NIP-21); its
    /// checksum is verified where it is decoded.
    Naddr, ParseNameError::JoinTarget, |text| is_nip19(text, "naddr1")
);
checked_text!(
    /// A Nostr key as people give it: npub, nprofile (with relay hints) or hex. Checksums are
    /// verified where it is decoded.
    KeyRef, ParseNameError::Key, |text| is_nip19(text, "npub1")
        || is_nip19(text, "nprofile1")
        || text.parse::<NostrKey>().is_ok()
);
checked_text!(
    /// A did:btcr2 identifier, checked in full where it is used.
    DidRef, ParseNameError::Did, |text| text.starts_with("did:btcr2:")
        && text.len() <= 256
        && text.bytes().all(|b| b.is_ascii_graphic())
);

/// Whether `text` has the shape of a NIP-19 string with this prefix (`npub1`, …). The data part
/// is lower-case bech32; 2 000 characters hold far more relay hints than anybody uses.
fn is_nip19(text: &str, prefix: &str) -> bool {
    const BECH32: &[u8] = b"qpzry9x8gf2tvdw0s3jn54khce6mua7l";
    let text = text.strip_prefix("nostr:").unwrap_or(text);
    text.len() <= 2000
        && text
            .strip_prefix(prefix)
            .is_some_and(|data| data.len() > 6 && data.bytes().all(|b| BECH32.contains(&b)))
}

/// What `cohort join` was given, after picks are resolved.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum JoinTarget {
    /// The cohort id, looked for on the configured relays (and among invitations).
    Cohort(CohortId),
    /// A share link, which carries relay hints.
    Naddr(Naddr),
}

/// Which key takes the seat (DESIGN §3).
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "snake_case")]
pub enum SeatKey {
    /// A key derived for this cohort only: the seat is not linked to the agent's identity.
    #[default]
    Fresh,
    /// The agent's identity key.
    Identity,
}

/// Arguments of `cohort advertise`. `None` means the default of the terms.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Advertise {
    /// A name for people.
    pub name: Option<String>,
    /// The network; `None` is the configured one.
    pub network: Option<Network>,
    /// The beacon type.
    pub beacon: BeaconType,
    /// Fewest and most members.
    pub seats: Option<Span<u16>>,
    /// Who can spend from the beacon.
    pub output_policy: Option<OutputPolicy>,
    /// How many members can sign a round that has stalled, with the output policy `k-of-n`.
    pub threshold: Option<u16>,
    /// Fewest and most DIDs a seat registers.
    pub dids_per_seat: Option<Span<u16>>,
    /// Seconds between the openings of two rounds.
    pub cadence_s: Option<u64>,
    /// Number of pending updates that opens a round early.
    pub pending_trigger: Option<u32>,
    /// Seconds from a round's opening within which members respond.
    pub response_deadline_s: Option<u64>,
    /// Seconds from a sign request within which members sign.
    pub sign_deadline_s: Option<u64>,
    /// Confirmations the previous signal needs before the next is signed.
    pub depth: Option<u32>,
    /// The highest fee rate the aggregator may ask members to sign.
    pub max_fee_rate: Option<FeeRate>,
    /// Multiples of a round's fee rate that the signal is signed at.
    pub fee_ladder: Option<Vec<u8>>,
    /// Who pays for signals.
    pub fund_by: Option<FundBy>,
    /// Relative lock time of refunds in blocks; 0 for none.
    pub refund_blocks: Option<u16>,
    /// Address that refunds to the aggregator pay; `None` is the first one of a BIP-86 wallet of its words.
    pub refund_to: Option<String>,
    /// What a round without updates does.
    pub empty_rounds: Option<EmptyRounds>,
    /// Whether members may, or must, deposit the updates they want announced.
    pub deposits: Option<Deposits>,
    /// Price of a seat, in sat (advertised, not settled by this program).
    pub cost_enrolment_sat: Option<u64>,
    /// Price of one announcement, in sat (advertised, not settled by this program).
    pub cost_announcement_sat: Option<u64>,
    /// SHA-256 of the terms of service, and where to read them.
    pub tos: Option<TosArg>,
    /// Seconds from now until which opt-ins are taken.
    pub opt_in_s: Option<u64>,
    /// No public advert: the terms go to invited keys only.
    pub invite_only: bool,
    /// What is asked of who is not invited.
    pub admission: Option<Admission>,
    /// Whom to send the terms to directly.
    pub invite: Vec<KeyRef>,
}

/// Terms of service that members accept with their opt-in.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TosArg {
    /// SHA-256 of the text.
    pub sha256: TosHash,
    /// Where the text can be read.
    pub link: String,
}

/// Arguments of `cohort discover`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Discover {
    /// Only this network.
    pub network: Option<Network>,
    /// Only this beacon type.
    pub beacon: Option<BeaconType>,
    /// Only cohorts that may have at least this many seats.
    pub min_seats: Option<u16>,
    /// Only cohorts that have at most this many seats.
    pub max_seats: Option<u16>,
    /// Only adverts of this aggregator.
    pub aggregator: Option<KeyRef>,
    /// Also full, running, closed, expired and malformed ones.
    pub all: bool,
    /// These relays instead of the configured ones.
    pub relays: Vec<String>,
    /// Seconds to wait for slow relays.
    pub timeout_s: Option<u64>,
}

/// Arguments of the look at a cohort's terms that precedes `cohort join`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Terms {
    /// The cohort.
    pub target: JoinTarget,
}

/// Arguments of `cohort join`. The cohort id commits to the terms that were shown.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Join {
    /// The cohort, by the id of the terms the user agreed to.
    pub cohort: CohortId,
    /// How the cohort was named, with its relay hints.
    pub target: JoinTarget,
    /// Which key takes the seat.
    #[serde(default)]
    pub seat: SeatKey,
    /// Address that a refund of the beacon's funds should pay.
    #[serde(default)]
    pub payee: Option<String>,
    /// An invite code, where the terms ask for one.
    #[serde(default)]
    pub code: Option<CodeText>,
    /// Proof of work to do, in leading zero bits; `None` is what the terms ask for, within the setting.
    #[serde(default)]
    pub work: Option<u8>,
}

/// Arguments of operations on one cohort.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct OneCohort {
    /// The cohort.
    pub cohort: CohortRef,
}

/// Arguments of `cohort list`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ListCohorts {
    /// Also cohorts that ended.
    pub all: bool,
}

/// Arguments of `cohort show`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ShowCohort {
    /// The cohort.
    pub cohort: CohortRef,
    /// How many past rounds to show, newest first; `None` is 10.
    #[serde(default)]
    pub rounds: Option<u32>,
}

/// Arguments of `cohort fund`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Fund {
    /// The cohort.
    pub cohort: CohortRef,
    /// For how many rounds; `None` is 10.
    #[serde(default)]
    pub rounds: Option<u32>,
    /// At which fee rate; `None` asks the chain backend.
    #[serde(default)]
    pub fee_rate: Option<FeeRate>,
}

/// Arguments of `cohort invite`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Invite {
    /// The cohort.
    pub cohort: CohortRef,
    /// To whom the terms are sent.
    pub keys: Vec<KeyRef>,
}

/// Arguments of `did register`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RegisterDid {
    /// The DID; `None` registers the index of one that is still to be created.
    pub did: Option<DidRef>,
    /// The cohort whose beacon shall cover it.
    pub cohort: CohortRef,
}

/// Arguments of operations on one DID.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct OneDid {
    /// The DID.
    pub did: DidRef,
}

/// Arguments of `relay add`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AddRelay {
    /// `wss://…` or `ws://…`.
    pub url: String,
    /// Whether to read from it.
    pub read: bool,
    /// Whether to write to it.
    pub write: bool,
    /// For which networks; none means all.
    #[serde(default)]
    pub networks: Vec<Network>,
}

/// Arguments of `relay remove`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RemoveRelay {
    /// The relay.
    pub url: String,
}

/// Arguments of `relay probe`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ProbeRelays {
    /// Which; none means all configured ones.
    pub urls: Vec<String>,
    /// Seconds to wait for each.
    pub timeout_s: Option<u64>,
}

/// Arguments of `follow` and `unfollow`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Follow {
    /// The aggregator.
    pub aggregator: KeyRef,
    /// Whether to tell it (a Subscribe message), so that it lists this agent as a subscriber.
    #[serde(default)]
    pub tell: bool,
}

/// Arguments of the event stream.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Subscribe {
    /// Only events of this cohort.
    pub cohort: Option<CohortId>,
}

/// No arguments.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NoArgs {}
