//! The service manager of the machine.

use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, bail};
use data_directory::Role;

use crate::unit::NODE_VARIABLES;

/// The path of the unit.
pub const UNIT: &str = "/etc/systemd/system/mainstay.service";

/// Whether systemd runs the machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Systemd {
    /// systemd is the machine's init system.
    Runs,
    /// The machine has another init system.
    Absent,
    /// The installation is for another machine, or for a package.
    OfAnotherRoot,
}

impl Systemd {
    /// As `sd_booted(3)` finds it out.
    pub fn of_this_machine() -> Self {
        match Path::new("/run/systemd/system").is_dir() {
            true => Self::Runs,
            false => Self::Absent,
        }
    }

    /// Whether a unit is of any use.
    pub fn has_units(self) -> bool {
        self != Self::Absent
    }

    /// Has the service started with the machine.
    pub fn enable(self) -> Result<()> {
        if self == Self::Runs {
            systemctl(&["daemon-reload"])?;
            systemctl(&["enable", "--quiet", "mainstay.service"])?;
        }
        Ok(())
    }

    /// Disables the service. A running one is not stopped, because it has pods.
    pub fn disable(self, data: &Path) -> Result<()> {
        if self != Self::Runs {
            return Ok(());
        }
        if systemctl(&["is-active", "--quiet", "mainstay.service"]).is_ok() {
            bail!(
                "the service mainstay runs: end it and its pods first, with `mainstay down --data-dir {}`",
                data.display()
            );
        }
        // A removed unit is not enabled either.
        systemctl(&["disable", "--quiet", "mainstay.service"]).ok();
        Ok(())
    }

    /// Reloads systemd after the unit was removed.
    pub fn reload(self) -> Result<()> {
        match self {
            Self::Runs => systemctl(&["daemon-reload"]),
            Self::Absent | Self::OfAnotherRoot => Ok(()),
        }
    }

    /// The next step for the user.
    pub fn next_step(self, role: Role, data: &Path) -> String {
        let data = data.display();
        let command = role.command();
        match self {
            Self::Runs if role == Role::Node => format!(
                "The service starts with the machine. A node that has not joined yet reads MAINSTAY_SERVER and \
                 MAINSTAY_TOKEN from {NODE_VARIABLES}; then: systemctl restart mainstay"
            ),
            Self::Runs => {
                "The service starts with the machine; now: systemctl restart mainstay".to_owned()
            }
            Self::Absent => format!(
                "This machine is not run by systemd: there is no service. To start in the background: \
                 mainstay {command} --detach --data-dir {data}"
            ),
            Self::OfAnotherRoot => {
                "Nothing was enabled, since --root is another system; there: systemctl \
                                    enable --now mainstay"
                    .to_owned()
            }
        }
    }

    /// The alternative to changing the unit.
    pub fn advice(self) -> &'static str {
        match self.has_units() {
            true => " (use `systemctl edit mainstay` to change settings of the unit)",
            false => "",
        }
    }
}

fn systemctl(arguments: &[&str]) -> Result<()> {
    let output = Command::new("systemctl").args(arguments).output();
    let output = output.context("run systemctl")?;
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stderr);
        bail!("systemctl {}: {}", arguments.join(" "), said.trim());
    }
    Ok(())
}
