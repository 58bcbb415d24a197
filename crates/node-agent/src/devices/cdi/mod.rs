//! The Container Device Interface: files of the node name devices and say how a container gets them
//! (<https://github.com/cncf-tags/container-device-interface/blob/main/SPEC.md>).

mod apply;
mod files;
mod index;
mod names;
mod spec;

pub use apply::{absolute, apply};
pub use files::read;
pub use names::annotated_devices;
pub use spec::CdiEdits;

/// The reason why a container does not get its CDI devices.
#[derive(Debug, thiserror::Error)]
pub enum CdiError {
    #[error("read CDI specifications in {}: {source}", directory.display())]
    Directory {
        directory: std::path::PathBuf,
        source: std::io::Error,
    },
    #[error("the directory {} has more than {max} CDI specifications", directory.display())]
    TooManyFiles {
        directory: std::path::PathBuf,
        max: usize,
    },
    /// The devices that no valid file has, and the files that are not valid.
    #[error("unresolvable CDI devices {}{}", devices.join(", "), invalid_files(invalid))]
    Unresolvable {
        devices: Vec<String>,
        /// The path and the error of each file.
        invalid: Vec<String>,
    },
    #[error("CDI device: {0} is not supported")]
    Unsupported(String),
    #[error("CDI device: {0}")]
    Invalid(String),
}

fn invalid_files(invalid: &[String]) -> String {
    match invalid {
        [] => String::new(),
        invalid => format!("; not readable: {}", invalid.join("; ")),
    }
}
