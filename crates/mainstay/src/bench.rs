//! `mainstay bench disk`: the cost of a directory's disk for a database: small writes that are synced one
//! by one, one long write, scattered small writes, unsynced and synced by several writers.

use std::fs::{File, OpenOptions};
use std::io::Write;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use command_output::output::OutputFormat;
use json_tree::json;

/// A page of a database.
const PAGE: usize = 8 << 10;
const BLOCK: usize = 1 << 20;

/// Arguments of `mainstay bench`.
#[derive(clap::Args, Debug)]
pub struct BenchArguments {
    #[command(subcommand)]
    what: Measurement,
}

#[derive(clap::Subcommand, Debug)]
enum Measurement {
    /// Measure the disk of a directory with the writes of a database
    Disk(DiskArguments),
}

/// Arguments of `mainstay bench disk`.
#[derive(clap::Args, Debug)]
#[command(after_help = AFTER_HELP)]
struct DiskArguments {
    /// Directory for a temporary file
    directory: PathBuf,
    /// Number of pages that are written and synced one by one
    #[arg(long, value_name = "N", default_value_t = 2000,
          value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    pages: u32,
    /// Size of the sequential write and of the file for scattered writes, in MiB
    #[arg(long, value_name = "MIB", default_value_t = 256,
          value_parser = clap::value_parser!(u32).range(1..=100_000))]
    size: u32,
    /// Number of concurrent writers of scattered pages, each page synced
    #[arg(long, value_name = "N", default_value_t = 4,
          value_parser = clap::value_parser!(u32).range(1..=256))]
    writers: u32,
    /// Output format
    #[arg(short, long, value_enum, value_name = "FORM", default_value = "text")]
    output: OutputFormat,
}

const AFTER_HELP: &str = "\
Inside a pod of the image mainstay/hello:
  kubectl exec web-0 -- /mainstay bench disk /data";

/// The measurements.
struct Figures {
    /// From the call of a write to the end of its fdatasync, sorted.
    durable: Vec<Duration>,
    /// Bytes per second.
    sequential: f64,
    /// Pages per second.
    random: f64,
    /// Pages per second, of all writers together.
    random_durable: f64,
}

/// Runs the measurement that the arguments name and prints the result.
pub fn run(arguments: &BenchArguments) -> Result<()> {
    match &arguments.what {
        Measurement::Disk(arguments) => measure_disk(arguments),
    }
}

fn measure_disk(arguments: &DiskArguments) -> Result<()> {
    let path = arguments
        .directory
        .join(format!(".mainstay-bench-{}", std::process::id()));
    let measured = measure(&path, arguments);
    std::fs::remove_file(&path).ok();
    let figures = measured.with_context(|| format!("write to {}", path.display()))?;
    command_output::output::print_line(&formatted(&figures, arguments.output));
    Ok(())
}

fn measure(path: &Path, arguments: &DiskArguments) -> Result<Figures> {
    let file = OpenOptions::new()
        .create_new(true)
        .read(true)
        .write(true)
        .open(path)?;
    let mut durable = Vec::new();
    for page in 0..arguments.pages {
        let content = noise(page.into(), PAGE);
        let started = Instant::now();
        file.write_all_at(&content, u64::from(page) * PAGE as u64)?;
        file.sync_data()?;
        durable.push(started.elapsed());
    }
    durable.sort_unstable();
    file.set_len(0)?;
    file.sync_all()?;
    let sequential = sequential(&file, arguments.size)?;
    let random = random(&file, arguments)?;
    let random_durable = random_durable(&file, arguments)?;
    Ok(Figures {
        durable,
        sequential,
        random,
        random_durable,
    })
}

fn sequential(mut file: &File, mib: u32) -> Result<f64> {
    let block = noise(1, BLOCK);
    let started = Instant::now();
    for _ in 0..mib {
        file.write_all(&block)?;
    }
    file.sync_data()?;
    Ok(f64::from(mib) * BLOCK as f64 / started.elapsed().as_secs_f64())
}

/// Scattered pages of the file, made durable together at the end.
fn random(file: &File, arguments: &DiskArguments) -> Result<f64> {
    let pages = u64::from(arguments.size) * (BLOCK / PAGE) as u64;
    let mut random = Random(2);
    let content = noise(0, PAGE);
    let started = Instant::now();
    for _ in 0..arguments.pages {
        file.write_all_at(&content, random.next() % pages * PAGE as u64)?;
    }
    file.sync_data()?;
    Ok(f64::from(arguments.pages) / started.elapsed().as_secs_f64())
}

/// Scattered pages of the file by several writers; each page is durable before the next.
fn random_durable(file: &File, arguments: &DiskArguments) -> Result<f64> {
    let pages = u64::from(arguments.size) * (BLOCK / PAGE) as u64;
    let each = arguments.pages.div_ceil(arguments.writers);
    let write = |writer: u32| -> std::io::Result<()> {
        let mut random = Random(u64::from(writer) + 3);
        let content = noise(writer.into(), PAGE);
        for _ in 0..each {
            file.write_all_at(&content, random.next() % pages * PAGE as u64)?;
            file.sync_data()?;
        }
        Ok(())
    };
    let started = Instant::now();
    std::thread::scope(|scope| {
        let start = |writer| scope.spawn(move || write(writer));
        let writers: Vec<_> = (0..arguments.writers).map(start).collect();
        let ended = writers.into_iter().map(|writer| {
            let panicked = |_| std::io::Error::other("a writer ended early");
            writer.join().map_err(panicked).flatten()
        });
        ended.collect::<std::io::Result<()>>()
    })?;
    let written = f64::from(each) * f64::from(arguments.writers);
    Ok(written / started.elapsed().as_secs_f64())
}

/// Pseudo-random bytes: a disk that compresses or deduplicates gains nothing from them.
fn noise(seed: u64, bytes: usize) -> Vec<u8> {
    let mut random = Random(seed);
    (0..bytes / 8)
        .flat_map(|_| random.next().to_le_bytes())
        .collect()
}

/// Pseudo-random offsets on a disk (`splitmix64`).
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }
}

fn formatted(figures: &Figures, form: OutputFormat) -> String {
    let at = |part: usize| {
        let last = figures.durable.len().saturating_sub(1);
        let index = (figures.durable.len() * part / 100).min(last);
        let time = figures.durable.get(index).copied().unwrap_or_default();
        time.as_secs_f64() * 1000.0
    };
    let mib = figures.sequential / BLOCK as f64;
    match form {
        OutputFormat::Text => format!(
            "8 KiB write and fdatasync: median {:.2} ms, 99th percentile {:.2} ms\n\
             long write and fdatasync: {mib:.0} MiB/s\n\
             8 KiB scattered writes, one fdatasync: {:.0} per second\n\
             8 KiB scattered writes, fdatasync after each, by several: {:.0} per second",
            at(50),
            at(99),
            figures.random,
            figures.random_durable
        ),
        OutputFormat::Json => json!({
            "durableMedianMs": at(50), "durable99Ms": at(99),
            "sequentialMiBPerSecond": mib, "randomPerSecond": figures.random,
            "randomDurablePerSecond": figures.random_durable,
        })
        .to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_measures_and_leaves_nothing() {
        let directory = tempfile::tempdir().unwrap();
        let arguments = DiskArguments {
            directory: directory.path().to_owned(),
            pages: 3,
            size: 1,
            writers: 2,
            output: OutputFormat::Json,
        };
        measure_disk(&arguments).unwrap();
        assert_eq!(std::fs::read_dir(directory.path()).unwrap().count(), 0);
    }

    #[test]
    fn figures_are_shown_in_both_forms() {
        let figures = Figures {
            durable: vec![Duration::from_millis(1), Duration::from_millis(3)],
            sequential: 2.0 * BLOCK as f64,
            random: 5.0,
            random_durable: 7.0,
        };
        assert!(formatted(&figures, OutputFormat::Text).contains("median 3.00 ms"));
        let json: json_tree::Value =
            serde_json::from_str(&formatted(&figures, OutputFormat::Json)).unwrap();
        assert_eq!(json["sequentialMiBPerSecond"], 2.0);
        assert_eq!(json["randomDurablePerSecond"], 7.0);
    }
}
