//! The machine: its hardware, its available memory and disk, and the resource usage of pods.

pub(crate) mod disk_figures;
pub(crate) mod machine_info;
pub(crate) mod pod_files;
pub(crate) mod pressure;
pub(crate) mod stats;
