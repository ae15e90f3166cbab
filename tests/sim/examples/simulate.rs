//! Runs the simulator over many seeds.
//!
//! `cargo run --release --example simulate -- --seeds 1000000 [--from N] [--jobs K] [--family F]`
//! `cargo run --release --example simulate -- --seed N --trace`
#![allow(
    missing_docs,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing
)]

use std::collections::BTreeMap;
use std::process::ExitCode;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Instant;

use btcr2_sim::{Config, Extra, Family, Run, World};

struct Options {
    from: u64,
    seeds: u64,
    jobs: usize,
    trace: bool,
    family: Option<Family>,
    extra: Option<Extra>,
    keep_going: bool,
}

const USAGE: &str = "simulate [--seeds N] [--from N] [--seed N] [--trace] [--jobs K] \
                     [--family faults|bad-members|bad-aggregator] \
                     [--extra NAME] [--keep-going]";

fn options() -> Result<Options, String> {
    let mut options = Options {
        from: 0,
        seeds: 1_000,
        jobs: std::thread::available_parallelism().map_or(1, usize::from),
        trace: false,
        family: None,
        extra: None,
        keep_going: false,
    };
    let mut args = std::env::args().skip(1);
    while let Some(arg) = args.next() {
        let mut number = || -> Result<u64, String> {
            let text = args.next().ok_or(format!("{arg} wants a number"))?;
            text.parse().map_err(|_| format!("{arg} wants a number"))
        };
        match arg.as_str() {
            "--seeds" => options.seeds = number()?,
            "--from" => options.from = number()?,
            "--jobs" => options.jobs = number()?.max(1) as usize,
            "--seed" => (options.from, options.seeds) = (number()?, 1),
            "--trace" => options.trace = true,
            "--keep-going" => options.keep_going = true,
            "--family" => {
                options.family = Some(match args.next().as_deref() {
                    Some("faults") => Family::Faults,
                    Some("bad-members") => Family::BadMembers,
                    Some("bad-aggregator") => Family::BadAggregator,
                    _ => return Err(USAGE.into()),
                });
            }
            "--extra" => {
                let name = args.next().unwrap_or_default();
                options.extra = Some(Extra::parse(&name).ok_or_else(|| {
                    let names = Extra::ALL.map(Extra::name).join(", ");
                    format!("--extra is one of {names}")
                })?);
            }
            _ => return Err(USAGE.into()),
        }
    }
    Ok(options)
}

fn main() -> ExitCode {
    let options = match options() {
        Ok(options) => options,
        Err(usage) => {
            eprintln!("{usage}");
            return ExitCode::from(2);
        }
    };
    let started = Instant::now();
    let next = AtomicU64::new(options.from);
    let stop = AtomicBool::new(false);
    let counts = Mutex::new(BTreeMap::<&'static str, u64>::new());
    let totals = Mutex::new((0_u64, 0_u64, 0_u64, 0_u64, 0_u64));
    let failed: Mutex<Vec<Run>> = Mutex::new(Vec::new());
    let end = options.from.saturating_add(options.seeds);
    std::thread::scope(|scope| {
        for _ in 0..options.jobs {
            scope.spawn(|| {
                while !stop.load(Ordering::Relaxed) {
                    let seed = next.fetch_add(1, Ordering::Relaxed);
                    if seed >= end {
                        break;
                    }
                    let run = btcr2_sim::run_with(seed, options.family, options.extra);
                    let mut sum = totals.lock().unwrap();
                    sum.0 += 1;
                    sum.1 += run.steps;
                    sum.2 += run.confirmed;
                    sum.3 += run.crashes;
                    sum.4 += run.blamed;
                    drop(sum);
                    for (what, times) in &run.counts {
                        *counts.lock().unwrap().entry(what).or_default() += times;
                    }
                    if run.failure.is_some() {
                        failed.lock().unwrap().push(run);
                        if !options.keep_going {
                            stop.store(true, Ordering::Relaxed);
                        }
                    }
                }
            });
        }
    });
    let (runs, steps, confirmed, crashes, blamed) = *totals.lock().unwrap();
    let seconds = started.elapsed().as_secs_f64();
    println!(
        "{runs} seeds in {seconds:.1} s: {:.1} seeds per second, {steps} steps, {confirmed} signals confirmed, \
         {crashes} crashes, {blamed} blames",
        runs as f64 / seconds
    );
    for (what, times) in counts.into_inner().unwrap() {
        println!("  {times:>9} {what}");
    }
    let mut failed = failed.into_inner().unwrap();
    failed.sort_by_key(|run| run.seed);
    for run in &failed {
        let why = run.failure.as_deref().unwrap_or_default();
        println!("seed {} [{}]: {why}", run.seed, run.about);
    }
    let shown = if options.trace {
        Some(options.from)
    } else {
        failed
            .first()
            .map(|run| run.seed)
            .filter(|_| !options.keep_going)
    };
    if let Some(seed) = shown {
        let run = World::new(Config::draw_with(seed, options.family, options.extra))
            .keeping_trace()
            .run();
        for line in &run.trace {
            println!("{line}");
        }
        println!("seed {seed}, trace hash {:016x}, {}", run.hash, run.about);
        println!("{}", run.failure.as_deref().unwrap_or("every rule held"));
    }
    if failed.is_empty() {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    }
}
