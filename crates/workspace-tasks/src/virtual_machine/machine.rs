//! Runs the virtual machine, and reads its console.

use std::collections::BTreeMap;
use std::fs::OpenOptions;
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use super::image::Image;

/// The prefix of the machine's own lines; see `run.sh`.
const LINE_PREFIX: &str = "virtual machine: ";

/// Timeout for the first line of the machine. With KVM the machine starts in two seconds or never: KVM on a
/// machine that is virtual itself may not work.
const NATIVE_START_MAX: Duration = Duration::from_secs(20);
const EMULATED_START_MAX: Duration = Duration::from_secs(300);

/// The last message of a kernel with a processor that waits for another one without end.
const HUNG_MESSAGE: &str = "Kernel panic - not syncing: softlockup";

/// Timeout of the whole run. An emulated processor is several times slower, and this machine may have other
/// work.
const NATIVE_RUN_MAX: Duration = Duration::from_secs(3600);
const EMULATED_RUN_MAX: Duration = Duration::from_secs(3 * 3600);

/// The processor of the virtual machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Processor {
    /// The processor of this machine (KVM).
    Native,
    /// An emulated processor (TCG).
    Emulated,
}

impl Processor {
    /// KVM, if this machine supports it.
    pub fn choose(emulate: bool) -> Processor {
        let mut options = OpenOptions::new();
        match !emulate && options.read(true).write(true).open("/dev/kvm").is_ok() {
            true => Processor::Native,
            false => Processor::Emulated,
        }
    }
}

/// The result of a run.
#[derive(Debug, Default)]
pub struct Run {
    /// The exit codes of the programs.
    pub exit_codes: BTreeMap<String, i32>,
    /// Whether the kernel hung: an emulated processor lost an interrupt for which the other processors wait.
    pub has_hung: bool,
}

/// Starts the machine, waits until the machine stops, and returns its report.
pub fn run(image: &Image, processor: Processor) -> Result<Run> {
    let begun = Instant::now();
    println!("xtask: starting the virtual machine ({processor:?} processor) …");
    let mut machine = Machine::start(image, processor)?;
    let (start_max, run_max) = match processor {
        Processor::Native => (NATIVE_START_MAX, NATIVE_RUN_MAX),
        Processor::Emulated => (EMULATED_START_MAX, EMULATED_RUN_MAX),
    };
    match machine.wait_for_start(start_max) {
        Ok(()) => {}
        Err(error) if processor == Processor::Native => {
            println!("xtask: it does not start ({error:#}); emulating a processor instead");
            drop(machine);
            return run(image, Processor::Emulated);
        }
        Err(error) => return Err(error),
    }
    let mut report = Run::default();
    while let Some(line) = machine.line(run_max.saturating_sub(begun.elapsed()))? {
        println!("{line}");
        report.exit_codes.extend(exit_code(&line));
        report.has_hung |= line.contains(HUNG_MESSAGE);
    }
    println!("xtask: the virtual machine took {:.0?}", begun.elapsed());
    Ok(report)
}

/// Name and exit code of a program, if the line reports the exit of a program.
fn exit_code(line: &str) -> Option<(String, i32)> {
    let (name, code) = line.strip_prefix(LINE_PREFIX)?.split_once(" ended with ")?;
    Some((name.to_owned(), code.parse().ok()?))
}

/// A running machine; dropping it kills the machine.
struct Machine {
    program: Child,
    lines: Receiver<String>,
}

impl Drop for Machine {
    fn drop(&mut self) {
        // The machine may have ended already.
        self.program.kill().ok();
        self.program.wait().ok();
    }
}

impl Machine {
    fn start(image: &Image, processor: Processor) -> Result<Machine> {
        let mut command = Command::new("qemu-system-x86_64");
        match processor {
            Processor::Native => command.args(["-accel", "kvm", "-cpu", "host"]),
            Processor::Emulated => command.args(["-accel", "tcg,thread=multi", "-cpu", "max"]),
        };
        let share = |path: &Path| path.display().to_string().replace(',', ",,");
        let disk = format!(
            "file={},format=raw,if=virtio,cache=unsafe",
            share(&image.disk)
        );
        command
            .args(["-smp", "2", "-m", "4G", "-nodefaults", "-no-reboot"])
            .args(["-display", "none", "-serial", "stdio"])
            .arg("-kernel")
            .arg(&image.program)
            .arg("-initrd")
            .arg(&image.start)
            .arg("-append")
            // A processor that is blocked for two minutes ends the machine.
            .arg("console=ttyS0 quiet panic=-1 softlockup_panic=1 watchdog_thresh=60")
            .arg("-fsdev")
            .arg("local,id=machine,path=/,security_model=none,readonly=on,multidevs=remap")
            .args(["-device", "virtio-9p-pci,fsdev=machine,mount_tag=machine"])
            .args(["-drive", &disk])
            .args(["-nic", "user,model=virtio-net-pci,restrict=on"])
            .stdin(Stdio::null())
            .stdout(Stdio::piped());
        let mut program = command.spawn().context("start qemu-system-x86_64")?;
        let output = program
            .stdout
            .take()
            .context("read what the machine says")?;
        let (sender, lines) = channel();
        std::thread::spawn(move || {
            for line in BufReader::new(output).split(b'\n').map_while(Result::ok) {
                let line = String::from_utf8_lossy(&line);
                if sender.send(line.trim_end_matches('\r').to_owned()).is_err() {
                    return;
                }
            }
        });
        Ok(Machine { program, lines })
    }

    /// The next line; `None` if the machine has ended.
    fn line(&self, patience: Duration) -> Result<Option<String>> {
        match self.lines.recv_timeout(patience) {
            Ok(line) => Ok(Some(line)),
            Err(RecvTimeoutError::Disconnected) => Ok(None),
            Err(RecvTimeoutError::Timeout) => bail!("the virtual machine takes too long"),
        }
    }

    fn wait_for_start(&mut self, patience: Duration) -> Result<()> {
        let until = Instant::now() + patience;
        while let Some(line) = self.line(until.saturating_duration_since(Instant::now()))? {
            println!("{line}");
            if line.starts_with(LINE_PREFIX) {
                return Ok(());
            }
        }
        bail!("the virtual machine ended without a word")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_end_of_a_program_is_told_by_a_line() {
        let of = |line: &str| exit_code(line).map(|(name, code)| format!("{name} {code}"));
        assert_eq!(
            of("virtual machine: agent ended with 101").as_deref(),
            Some("agent 101")
        );
        assert_eq!(of("virtual machine: Linux 6.1"), None);
        assert_eq!(of("agent ended with 0"), None);
    }
}
