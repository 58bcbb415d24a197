//! The service manager of the machine.

use std::path::Path;
use std::process::Command;

use data_directory::Role;

use crate::error::{InstallError, Result};
use crate::unit::NODE_VARIABLES;

/// The path of the unit.
pub const UNIT: &str = "/etc/systemd/system/mainstay.service";

/// Whether systemd is the init system of the machine on which the service will run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Systemd {
    Runs,
    /// The machine has another init system.
    Absent,
    /// The installation is for another machine, or for a package.
    OfAnotherRoot,
}

impl Systemd {
    /// Decides as `sd_booted(3)` does.
    pub fn detect() -> Self {
        match Path::new("/run/systemd/system").is_dir() {
            true => Self::Runs,
            false => Self::Absent,
        }
    }

    /// Whether a unit is installed: not on a machine with another init system.
    pub fn has_units(self) -> bool {
        self != Self::Absent
    }

    /// Enables the service, so that systemd starts it at boot.
    pub fn enable(self) -> Result<()> {
        if self == Self::Runs {
            systemctl(&["daemon-reload"])?;
            systemctl(&["enable", "--quiet", "mainstay.service"])?;
        }
        Ok(())
    }

    /// Disables the service. A running service is not stopped, because it has pods.
    pub fn disable(self, data: &Path) -> Result<()> {
        if self != Self::Runs {
            return Ok(());
        }
        if systemctl(&["is-active", "--quiet", "mainstay.service"]).is_ok() {
            return Err(InstallError::ServiceRuns {
                data: data.to_owned(),
            });
        }
        // Disabling fails for a removed unit, which is not enabled anyway.
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

    /// The text with the next step for the user.
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

    /// The text with the alternative to editing the unit.
    pub fn advice(self) -> &'static str {
        match self.has_units() {
            true => " (use `systemctl edit mainstay` to change settings of the unit)",
            false => "",
        }
    }
}

fn systemctl(arguments: &[&str]) -> Result<()> {
    let output = Command::new("systemctl").args(arguments).output();
    let output = output.map_err(InstallError::NoSystemctl)?;
    if !output.status.success() {
        let message = String::from_utf8_lossy(&output.stderr);
        return Err(InstallError::Systemctl {
            arguments: arguments.join(" "),
            message: message.trim().to_owned(),
        });
    }
    Ok(())
}
