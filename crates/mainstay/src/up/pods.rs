//! What pods may do on this node.

use node_agent::LogLimits;
use object_model::quantity::Quantity;
use serde::Deserialize;

/// Most processes and threads of a pod where nothing else is said: enough for databases with a
/// thread for each of thousands of clients, few enough that one that forks without end harms nobody.
const PIDS_MAX: i64 = 4096;

/// Flags, by the names that kubelet has for them; and the same settings in the configuration file.
#[derive(clap::Args, Clone, Debug, Default, Deserialize, PartialEq)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct PodSettings {
    /// Most processes and threads of one pod; -1 sets no limit [default: 4096]
    #[arg(
        long,
        value_name = "NUMBER",
        env = "MAINSTAY_POD_MAX_PIDS",
        allow_negative_numbers = true
    )]
    pod_max_pids: Option<i64>,
    /// Size of a container's log at which a new one is begun [default: 10Mi]
    #[arg(long, value_name = "QUANTITY")]
    container_log_max_size: Option<Quantity>,
    /// How many files of a container's log are kept [default: 5]
    #[arg(long, value_name = "NUMBER", value_parser = clap::value_parser!(u32).range(2..))]
    container_log_max_files: Option<u32>,
    /// Kernel parameters that pods may set besides the safe ones, with commas; one may end with *
    #[arg(long, value_name = "NAMES", value_delimiter = ',')]
    allowed_unsafe_sysctls: Vec<String>,
}

impl PodSettings {
    /// Takes from the configuration file what no flag and no variable gave.
    pub fn or(self, file: Self) -> Self {
        Self {
            pod_max_pids: self.pod_max_pids.or(file.pod_max_pids),
            container_log_max_size: self.container_log_max_size.or(file.container_log_max_size),
            container_log_max_files: self
                .container_log_max_files
                .or(file.container_log_max_files),
            allowed_unsafe_sysctls: match self.allowed_unsafe_sysctls.is_empty() {
                true => file.allowed_unsafe_sysctls,
                false => self.allowed_unsafe_sysctls,
            },
        }
    }

    /// Most processes and threads of one pod; -1 for any number.
    pub fn pids_max(&self) -> i64 {
        self.pod_max_pids.unwrap_or(PIDS_MAX).max(-1)
    }

    /// How much of the output of containers is kept.
    pub fn logs(&self) -> LogLimits {
        let default = LogLimits::default();
        let size = self.container_log_max_size.map(|size| size.value());
        let size = size.and_then(|bytes| u64::try_from(bytes).ok());
        LogLimits {
            file_bytes_max: size
                .filter(|bytes| *bytes > 0)
                .unwrap_or(default.file_bytes_max),
            files_max: self.container_log_max_files.unwrap_or(default.files_max),
        }
    }

    /// Kernel parameters that are allowed besides the safe ones.
    pub fn unsafe_sysctls(&self) -> Vec<String> {
        self.allowed_unsafe_sysctls.clone()
    }
}
