//! Runs targets: each in a separate process, watched from outside.

use std::fs::{File, OpenOptions};
use std::num::NonZero;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::process::{Child, Command};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread::available_parallelism;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use crate::mutate::Maker;
use crate::targets::{self, Target};
use crate::{Arguments, MEMORY};

/// Maximum memory for one input in addition to the memory of the process.
const INPUT_BYTES_MAX: usize = 512 << 20;
/// Maximum time of one input; a longer time counts as a hang. (Debug builds on busy machines are slow; no input needs a
/// tenth of the time.)
const INPUT_TIME_MAX: Duration = Duration::from_secs(20);
const POLL: Duration = Duration::from_millis(50);

/// The stack size of the server's threads; a build without optimisation needs about five times as much.
const STACK_BYTES: usize = if cfg!(debug_assertions) { 16 } else { 2 } << 20;

/// Runs the requested targets; returns whether all passed.
pub fn run(arguments: &Arguments) -> Result<bool> {
    if arguments.list {
        targets::ALL
            .iter()
            .for_each(|target| println!("{}", target.name));
        return Ok(true);
    }
    let mut chosen = Vec::new();
    for name in &arguments.targets {
        let named_target = targets::ALL.iter().find(|target| target.name == name);
        chosen.push(named_target.with_context(|| format!("no target {name}; --list shows all"))?);
    }
    if chosen.is_empty() {
        chosen.extend(targets::ALL);
    }
    let seed = arguments.seed.unwrap_or_else(rand::random);
    match (arguments.iteration, &arguments.note) {
        (Some(iteration), _) => {
            for target in chosen {
                let input = Maker::new(target)?.input(seed, iteration);
                println!("{}", literal(&input));
                within_stack(|| {
                    (target.run)(&input);
                    Ok(())
                })?;
            }
            Ok(true)
        }
        (None, Some(note)) => {
            let [target] = chosen[..] else {
                bail!("one target at a time");
            };
            let time = Duration::from_secs(arguments.seconds);
            within_stack(|| work(target, seed, time, note))?;
            Ok(true)
        }
        (None, None) => {
            println!("seed {seed}");
            watch_all(&chosen, seed, arguments.seconds)
        }
    }
}

/// Runs `work` on a thread with the stack size of the server's threads.
fn within_stack(work: impl FnOnce() -> Result<()> + Send) -> Result<()> {
    std::thread::scope(|scope| {
        let thread = std::thread::Builder::new().stack_size(STACK_BYTES);
        let done = thread.spawn_scoped(scope, work)?.join();
        done.unwrap_or_else(|_| bail!("it panicked"))
    })
}

/// Runs a target for a time, and before each input records its number in `note`.
fn work(target: &Target, seed: u64, time: Duration, note: &Path) -> Result<()> {
    let note = OpenOptions::new().write(true).open(note)?;
    let maker = Maker::new(target)?;
    let started = Instant::now();
    let mut iteration = 0;
    // Earlier findings are always tried, even if the time is over.
    while iteration < maker.findings() || started.elapsed() < time {
        note.write_all_at(&u64::to_le_bytes(iteration), 0)?;
        let input = maker.input(seed, iteration);
        MEMORY
            .set_limit(MEMORY.allocated() + INPUT_BYTES_MAX)
            .map_err(|_| anyhow::anyhow!("the process has more memory than it may have"))?;
        (target.run)(&input);
        iteration += 1;
    }
    println!("{}: {iteration} inputs", target.name);
    Ok(())
}

/// Runs the targets, as many concurrently as there are processors; returns whether all passed.
fn watch_all(targets: &[&Target], seed: u64, seconds: u64) -> Result<bool> {
    let next = AtomicUsize::new(0);
    let work = || -> Result<bool> {
        let mut well = true;
        while let Some(target) = targets.get(next.fetch_add(1, Ordering::Relaxed)) {
            well &= watch(target, seed, seconds)?;
        }
        Ok(well)
    };
    let processors = available_parallelism().map_or(1, NonZero::get);
    std::thread::scope(|scope| {
        let workers: Vec<_> = (0..processors).map(|_| scope.spawn(work)).collect();
        workers.into_iter().try_fold(true, |well, worker| {
            let ended = worker.join();
            Ok(well & ended.unwrap_or_else(|_| bail!("a worker panicked"))?)
        })
    })
}

/// Runs a target in a separate process; returns whether it passed.
fn watch(target: &Target, seed: u64, seconds: u64) -> Result<bool> {
    let note = tempfile::NamedTempFile::new()?;
    note.as_file().write_all_at(&u64::to_le_bytes(0), 0)?;
    let mut child = Command::new(std::env::current_exe()?)
        .args([
            target.name,
            "--seconds",
            &seconds.to_string(),
            "--seed",
            &seed.to_string(),
        ])
        .arg("--note")
        .arg(note.path())
        .spawn()
        .context("start a process for the target")?;
    let Some(end) = wait_for_end(&mut child, note.as_file())? else {
        return Ok(true);
    };
    let iteration = noted(note.as_file())?;
    let input = Maker::new(target)?.input(seed, iteration);
    println!(
        "{}: {end}, by this input:\n{}",
        target.name,
        literal(&input)
    );
    let name = target.name;
    println!("repeat it by: cargo xtask fuzz {name} --seed {seed} --iteration {iteration}");
    println!("then keep it in crates/fuzzing/corpus/{name}");
    Ok(false)
}

/// Waits for the process; returns the reason of its end if it did not succeed.
fn wait_for_end(child: &mut Child, note: &File) -> Result<Option<String>> {
    let (mut last, mut since) = (noted(note)?, Instant::now());
    loop {
        if let Some(status) = child.try_wait()? {
            return Ok((!status.success()).then(|| format!("ended with {status}")));
        }
        let now = noted(note)?;
        if now != last {
            (last, since) = (now, Instant::now());
        } else if since.elapsed() > INPUT_TIME_MAX {
            child.kill()?;
            child.wait()?;
            return Ok(Some(format!("no end within {INPUT_TIME_MAX:?}")));
        }
        std::thread::sleep(POLL);
    }
}

fn noted(note: &File) -> Result<u64> {
    let mut bytes = [0; 8];
    note.read_exact_at(&mut bytes, 0)?;
    Ok(u64::from_le_bytes(bytes))
}

/// Maximum number of printed bytes of an input; seed and iteration reproduce the whole input.
const PRINTED_BYTES: usize = 2000;

/// An input as a Rust literal.
fn literal(input: &[u8]) -> String {
    let (first, rest) = input.split_at(input.len().min(PRINTED_BYTES));
    let more = match rest.len() {
        0 => String::new(),
        more => format!(" and {more} bytes more"),
    };
    format!("b\"{}\"{more}", first.escape_ascii())
}
