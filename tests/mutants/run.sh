#!/usr/bin/env bash
# Breaks the rules one by one and runs the simulator on every broken program: it has to find every one. A mutant that
# survives is a rule that nothing guards.
#
#   tests/mutants/run.sh [NAME...]       all mutants, or those named
#   tests/mutants/run.sh --list
#
# MUTANTS_DIR          where the copy is made (default: a directory below TMPDIR)
# CARGO_TARGET_DIR     where it is built, outside of the checkout (default: target/ beside the copy)
# MUTANTS_PROFILE      cargo's profile (default: dev); release takes longer to build, and runs three times as many seeds
# MUTANTS_SEEDS        seeds per mutant at most (default: as the mutant says)
# MUTANTS_SECONDS      seconds per mutant at most (default: 900)
#
# All mutants are edits of one copy of the sources, each behind a switch that the environment variable MUTANT throws:
# one build for all of them. Neither edits nor switch are part of the sources themselves. An edit is a Perl
# substitution over a whole file, in which M stands for the switch; one that does not apply any more is an error.
set -u
cd "$(dirname "$0")/../.."
source_dir=$PWD
work=${MUTANTS_DIR:-${TMPDIR:-/tmp}/btcr2-mutants}
export CARGO_TARGET_DIR=${CARGO_TARGET_DIR:-$work/target}
tree=$work/tree
wanted=("$@")
names=() whats=() hows=() stale=()

is_wanted() {
    [ ${#wanted[@]} -eq 0 ] && return 0
    local name
    for name in "${wanted[@]}"; do [ "$name" = "$1" ] && return 0; done
    return 1
}

# mutant NAME WHAT HOW FILE EXPR [FILE EXPR]...
#   HOW: "FAMILY SEEDS" or "FAMILY:EXTRA SEEDS" of the simulator, or "test NAME" of the test that catches it.
mutant() {
    local name=$1 what=$2 how=$3 file expr
    shift 3
    if [ "${wanted[0]:-}" = --list ]; then
        printf '%-24s %-20s %s\n' "$name" "$how" "$what"
        return
    fi
    while [ $# -gt 0 ]; do
        file=$tree/$1 expr=${2//\bM\b/}
        expr=$(printf '%s' "$2" | sed "s/\\bM\\b/crate::mutant(\"$name\")/g")
        cp "$file" "$work/before"
        perl -0pi -e "$expr" "$file"
        if cmp -s "$work/before" "$file"; then
            echo "ERROR     $name: an edit of $1 does not apply"
            stale+=("$name")
        fi
        shift 2
    done
    names+=("$name") whats+=("$what") hows+=("$how")
}

if [ "${wanted[0]:-}" != --list ]; then
    mkdir -p "$work"
    rm -rf "$work/new"
    mkdir "$work/new"
    git ls-files -z --cached --others --exclude-standard |
        tar -C "$source_dir" --null -T - -cf - | tar -C "$work/new" -xf -
    mkdir -p "$tree"
    real_tree=$tree tree=$work/new
    cat >> "$tree/src/core/lib.rs" <<'RUST'

/// Whether this mutant is switched on.
pub fn mutant(name: &str) -> bool {
    static ON: std::sync::OnceLock<String> = std::sync::OnceLock::new();
    ON.get_or_init(|| std::env::var("MUTANT").unwrap_or_default()) == name
}
RUST
fi

P=src/core/protocol/participant A=src/core/protocol/aggregator

# ---- rule 1 ----
mutant nonce-twice "the signer keeps a nonce that signed, and a member signs a session again" "bad-aggregator 400" \
    src/core/keys/signer.rs 's/(let nonce = self\.open\.remove\(&slot\.key\(\)\);\n        if )(self\.is_closed\(&slot\) \{)/let nonce = self.open.remove(&slot.key());\n        if M \&\& let Some(n) = &nonce { self.open.insert(slot.key(), SecretNonce { bytes: n.bytes.clone(), public: n.public, made: n.made }); }\n        if !M \&\& $2/' \
    $P/session.rs 's/if state\.sent\.contains_key\(&request\.attempt\) \{/if !M \&\& state.sent.contains_key(&request.attempt) {/; s/if request\.attempt < earliest \|\|/if (!M \&\& request.attempt < earliest) ||/'

# ---- rule 2 ----
mutant output-order "the signal bytes may be in the first output" "bad-aggregator 400" \
    src/core/beacon/signal.rs 's/(limits: &SignalLimits,\n\) -> Result<CheckedSignal, SignalFault> \{)/$1\n    let turned = { let mut turned = tx.clone(); turned.output.reverse(); turned };\n    let tx = if !M || signal_of(tx).is_some() { tx } else { &turned };/'
mutant change-elsewhere "change may go anywhere" "bad-aggregator 400" \
    src/core/beacon/signal.rs 's/if (change\.is_some_and\(\|change\| change\.script_pubkey\.as_script\(\) != beacon_script\)) \{/if !M \&\& $1 {/; s/let rebuilt = transaction\(&inputs, change, beacon_script, signal\);/let rebuilt = transaction(&inputs, change, beacon_script, signal);\n    let rebuilt = if M { tx.clone() } else { rebuilt };/'
mutant fee-unchecked "any fee will do" "bad-aggregator 400" \
    src/core/beacon/signal.rs 's/    if fee > limit \{/    if !M \&\& fee > limit {/'
mutant lock-time-unchecked "any lock time will do" "bad-aggregator 400" \
    src/core/beacon/signal.rs 's/(    let inputs = check_inputs\(tx, tip, further\)\?;)/    let plain = { let mut plain = tx.clone(); plain.lock_time = LockTime::ZERO; plain };\n    let tx = if M { &plain } else { tx };\n$1/; s/    if tx\.lock_time != LockTime::ZERO \{/    if !M \&\& tx.lock_time != LockTime::ZERO {/'
mutant refund-payee "a refund may pay anybody" "bad-aggregator 600" \
    src/core/beacon/refund.rs 's/if output\.script_pubkey != \*payee \{/if !M \&\& output.script_pubkey != *payee {/; s/(let rebuilt = self\.transaction\(fee\)\.ok_or\(RefundFault::Shares\)\?;)/$1\n        let rebuilt = if M { tx.clone() } else { rebuilt };/'
mutant refund-lock "a refund may be sent at once" "bad-aggregator 600" \
    src/core/beacon/refund.rs 's/if (input\.sequence != Sequence::from_height\(self\.lock_blocks\)) \{/if !M \&\& $1 {/; s/(let rebuilt = self\.transaction\(fee\)\.ok_or\(RefundFault::Shares\)\?;)/$1\n        let rebuilt = if M { tx.clone() } else { rebuilt };/'

# ---- rule 3 ----
mutant announcement "what is announced of my DIDs is not compared" "bad-aggregator 400" \
    $P/checks.rs 's/if map\.update_of\(did\.as_str\(\)\) != submitted \{/if !M \&\& map.update_of(did.as_str()) != submitted {/'
mutant announcement-hash "the announcement is not compared with the signal" "bad-aggregator 400" \
    $P/checks.rs 's/if map\.signal_bytes\(\) != \*signal \{/if !M \&\& map.signal_bytes() != *signal {/'
mutant root-unchecked "the root of my proofs is not compared with the signal" "bad-aggregator 400" \
    src/core/beacon/smt/proof.rs 's/        if computed != \*signal \{/        if !M \&\& computed != *signal {/'

# ---- rule 4 ----
mutant tip-unchecked "input 0 may be any output" "bad-aggregator 400" \
    src/core/beacon/signal.rs 's/if first\.previous_output != tip\.outpoint \{/if !M \&\& first.previous_output != tip.outpoint {/; s/(let rebuilt = transaction\(&inputs, change, beacon_script, signal\);)/$1\n    let rebuilt = if M { tx.clone() } else { rebuilt };/'
mutant depth-ignored "the tip is spent before it is deep enough" "faults 300" \
    src/core/protocol/chain_view.rs 's/\} if self\.confirmations\(height\) >= u32::from\(depth\) => Some\(\(outpoint, value_sat\)\)/} if self.confirmations(height) >= u32::from(if M { 1 } else { depth }) => Some((outpoint, value_sat))/'
mutant replaced-bytes "a replacement may announce something else" "bad-aggregator:stuck 1500" \
    $P/replacing.rs 's/if ladder\.signal != approved\.signal \{/if !M \&\& ladder.signal != approved.signal {/' \
    $P/checks.rs 's/if self\.announces_otherwise\(/if !M \&\& self.announces_otherwise(/'

# ---- rule 5 ----
mutant artifacts-late "a member signs without keeping its proofs" "faults 100" \
    $P/session.rs 's/effects\.extend\(artifacts\.into_iter\(\)\.map\(Effect::Save\)\);/if !M { effects.extend(artifacts.into_iter().map(Effect::Save)); }/'
mutant leaves-lost "the aggregator does not keep what it announces" "faults 100" \
    $A/round.rs 's/                effects\.extend\(fixed\);\n/                if M { effects.clear(); }\n                effects.extend(fixed);\n/'

# ---- rule 6 ----
mutant author-unchecked "a member believes anybody" "bad-members 400" \
    $P/mod.rs 's/&& \*from != self\.terms\.aggregator\n/\&\& !M \&\& *from != self.terms.aggregator\n/'
mutant seat-unchecked "whoever holds no seat speaks for the first one" "bad-members 400" \
    $A/mod.rs 's/self\.set\.as_ref\(\)\.and_then\(\|\(set, _\)\| set\.seat_of\(key\)\)/self.set.as_ref().and_then(|(set, _)| set.seat_of(key).or(if M { Some(Seat(0)) } else { None }))/'
mutant payee-changed "a set with another payee for me is acknowledged" "bad-aggregator 1500" \
    src/core/protocol/set.rs 's/if self\.payees\.get\(&own\) != own_payee \{/if !M \&\& self.payees.get(&own) != own_payee {/'

# ---- rule 7 ----
mutant blame-skipped "a bad partial signature is taken" "bad-members 400" \
    $A/session.rs 's/if verdict\.is_err\(\) \{/if !M \&\& verdict.is_err() {/'
mutant evidence-unsigned "what is not signed by its sender counts as evidence" "bad-members 1500" \
    $A/session.rs 's/(signed: Signed<Partials>,\n    \) -> Step \{.*?)if !signed\.verifies\(/$1if !M \&\& !signed.verifies(/s'
mutant framing "a blame of a session that the accused never signed in counts" "bad-aggregator 600" \
    src/core/protocol/evidence.rs 's/if commitment\(keys, nonces, session\) != Some\(hash\) \{/if !M \&\& commitment(keys, nonces, session) != Some(hash) {/'
mutant result-unverified "a member takes any signature for the result's" "bad-aggregator 600" \
    $P/checks.rs 's/tx\.input\.len\(\) == sighashes\.len\(\) && tx\.input\.iter\(\)\.zip\(sighashes\)\.all\(signed\)/M || tx.input.len() == sighashes.len() \&\& tx.input.iter().zip(sighashes).all(signed)/'

# ---- rule 8 and delivery ----
mutant unlogged-state "a tick that is not logged changes what happens later" "bad-members:fallback 800" \
    $A/refunds.rs 's/(            effects\.extend\(self\.open_refund\(now, outpoint, value_sat\)\);\n        \}\n)/$1        if M { for failed in self.refunds.failed.values_mut() { if now >= failed.retry_at { failed.retry_at = now.plus(RETRY_SECONDS); } } }\n/'
mutant number-twice "a number of a lane is handled again" "faults 100" \
    src/core/nostr/lanes.rs 's/(!state\.above\.insert\(seq\) \{\n            return )Receipt::Duplicate;/$1if M { Receipt::New } else { Receipt::Duplicate };/'
mutant never-again "what a relay took counts as delivered" "faults 200" \
    src/core/nostr/outbox/mod.rs 's/if acknowledged && \(row\.wants_ack \|\| everywhere\) \{/if (M \&\& row.published) || acknowledged \&\& (row.wants_ack || everywhere) {/'
mutant refused-for-ever "what a relay refused once is never offered again" "faults 400" \
    src/core/nostr/outbox/mod.rs 's/if somewhere \|\| refused \|\| row/if somewhere || (!M \&\& refused) || row/'

# ---- rule 9 ----
mutant confirmed-early "a signal in the mempool is called confirmed" "faults 100" \
    $A/signals.rs 's/Some\(\(txid, chain\.signals\.get\(&txid\)\?\.height\?\)\)/Some((txid, chain.signals.get(&txid)?.height.or(if M { Some(1) } else { None })?))/'
mutant reorg-ignored "a signal that left the chain stays confirmed" "faults 400" \
    $A/signals.rs 's/before\.filter\(\|_\| !same\)/before.filter(|_| !same \&\& !M)/'
mutant member-reorg-ignored "a member does not say that a signal left the chain" "faults 400" \
    $P/mod.rs 's/(effects\.push\(Effect::Report\(Report::SignalReorganised \{ round, txid \}\)\);)/if !M { $1 }/'

# ---- rule 10 ----
mutant second-update "another update is queued while one may still confirm" "faults 200" \
    $P/coverage.rs 's/\(locked \|\| self\.is_planned\(index\)\)/(!M \&\& (locked || self.is_planned(index)))/'

# ---- rule 13 ----
mutant bound-early "a DID is bound before its history is complete" "faults 300" \
    $P/coverage.rs 's/!in_flight && !unseen && self\.missing\(index\)\.is_empty\(\)/!in_flight \&\& !unseen \&\& (M || self.missing(index).is_empty())/'
mutant history-unverified "a proof of the past is kept as it came" "bad-aggregator 1500" \
    $P/history.rs 's/if path\.verify_leaf_value\(index, &leaf, &item\.signal\)\.is_err\(\) \{/if !M \&\& path.verify_leaf_value(index, &leaf, &item.signal).is_err() {/'

# ---- the k-of-n leaf ----
mutant leaf-announced "a member signs through the leaf whatever is announced of its DIDs" "bad-aggregator:fallback 400" \
    $P/fallback.rs 's/if let Some\(objection\) = &fallback\.objection \{/if let Some(objection) = fallback.objection.as_ref().filter(|_| !M) {/'
mutant leaf-fee "any fee will do through the leaf" "bad-aggregator:fallback 400" \
    $P/fallback.rs 's/(let limits = leaf\.limits\(&fallback\.tx, &self\.limits\(\)\);)/$1\n        let limits = if M { crate::beacon::signal::SignalLimits { max_fee_rate: bitcoin::FeeRate::MAX, max_fee: Amount::MAX_MONEY } } else { limits };/'
mutant leaf-not-kept "a member signs through the leaf without keeping what is announced" "faults:fallback 100" \
    $P/fallback.rs 's/(let mut effects = self\.keep\(round, signal, txid, &request\.announced, &published, &said\);)/$1\n        if M { effects.clear(); }/'
mutant leaf-bytes "other bytes are signed in a round that has some" "bad-aggregator:fallback 1500" \
    $P/fallback.rs 's/if self\.announces_otherwise\(round, &fallback\.signal\) \{/if !M \&\& self.announces_otherwise(round, \&fallback.signal) {/; s/if further\.signal != first\.signal \{/if !M \&\& further.signal != first.signal {/' \
    $P/fallback/replacing.rs 's/if further\.signal != first\.signal \{/if !M \&\& further.signal != first.signal {/'
mutant said-forgotten "what was said in a round that is over is forgotten, though others may sign it" "faults:fallback 200" \
    $P/fallback/responded.rs 's/let OutputPolicy::KOfN\(_\) = self\.terms\.output_policy else \{/let (OutputPolicy::KOfN(_), false) = (self.terms.output_policy, M) else {/'

# ---- old copies ----
mutant old-numbers "an aggregator with an old store numbers rounds on from there" "faults:restore 300" \
    $A/mod.rs 's/self\.last_round = self\.last_round\.saturating_add\(NUMBERS_SKIPPED\);/if !M { self.last_round = self.last_round.saturating_add(NUMBERS_SKIPPED); }/'
mutant signed-again "a transaction that was signed before is not one of the round that goes on" "faults:money-stops 400" \
    $P/session.rs 's/Some\(known\) if known\.round < given\.round => \{/Some(known) if !M \&\& known.round < given.round => {/'

# ---- deposits ----
mutant announced-unverified "an update is announced before the aggregator has verified it" "faults:deposits 200" \
    $P/deposits.rs 's/Term::Required => accepted && !without,/Term::Required => M || (accepted \&\& !without),/; s/Some\(_\) => return self\.terms\.deposits == Term::None,/Some(_) => return M || self.terms.deposits == Term::None,/; s/now <= state\.patience\n/!M \&\& now <= state.patience\n/'
mutant opened-unasked "leaves are opened that nobody wanted to show" "faults:deposits 200" \
    $P/deposits.rs 's/Term::Accepted => deposited,/Term::Accepted => M || deposited,/'

# ---- rule 11, and ends ----
mutant money-moves "an aggregator collects signatures though it may not spend" "faults:money-stops 300" \
    $A/money.rs 's/self\.money_stopped = !permitted;/self.money_stopped = !permitted \&\& !M;/'
mutant cancelled-late "a cohort is cancelled after a partial signature came" "faults:leaves 300" \
    $A/mod.rs 's/if self\.round\.as_ref\(\)\.is_some_and\(RoundState::has_partials\) \{/if !M \&\& self.round.as_ref().is_some_and(RoundState::has_partials) {/'

[ "${wanted[0]:-}" = --list ] && exit 0
[ ${#stale[@]} -eq 0 ] || exit 2

# Only what changed is touched, so that cargo builds no more than it has to.
tree=$real_tree
(cd "$work/new" && find . -type f -print0) | while IFS= read -r -d '' file; do
    cmp -s "$work/new/$file" "$tree/$file" || { mkdir -p "$(dirname "$tree/$file")"; cp "$work/new/$file" "$tree/$file"; }
done
cd "$tree" || exit 2
profile=${MUTANTS_PROFILE:-dev}
cargo build --quiet --profile "$profile" --example simulate || exit 2
simulate=$CARGO_TARGET_DIR/${profile/#dev/debug}/examples/simulate

echo "first without any mutant:"
"$simulate" --seeds 20 || exit 2
found=0 survived=0
# Those that a test finds come last: the tests have to be built for them.
order=()
for at in "${!names[@]}"; do [ "${hows[$at]% *}" = test ] || order+=("$at"); done
for at in "${!names[@]}"; do [ "${hows[$at]% *}" = test ] && order+=("$at"); done
for at in "${order[@]}"; do
    name=${names[$at]} how=${hows[$at]} log=$work/${names[$at]}.log
    is_wanted "$name" || continue
    if [ "${how% *}" = test ]; then
        MUTANT=$name cargo test --quiet --test it "${how#* }" > "$log" 2>&1
    else
        family=${how% *} extra=()
        [ "$family" = "${family#*:}" ] || extra=(--extra "${family#*:}")
        MUTANT=$name timeout "${MUTANTS_SECONDS:-900}" "$simulate" --family "${family%:*}" "${extra[@]}" --seeds "${MUTANTS_SEEDS:-${how#* }}" > "$log" 2>&1
    fi
    result=$?
    # A broken rule, or a panic; 124 is the end of the time. Cargo ends in the same way when it can not build the test.
    why=$(grep -m1 -E '^seed [0-9]+ \[|panicked at|FAILED' "$log" | sed 's/\[[^]]*\]//' | cut -c1-160)
    if { [ $result -eq 1 ] || [ $result -eq 101 ]; } && [ -n "$why" ]; then
        found=$((found + 1))
        echo "found     $name (${whats[$at]}): $why"
    else
        survived=$((survived + 1))
        echo "SURVIVED  $name (${whats[$at]})"
    fi
done
echo "$found found, $survived survived"
[ "$survived" -eq 0 ]
