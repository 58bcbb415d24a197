//! Defaults and validation that several kinds share.

pub(crate) mod addresses;
pub(crate) mod advice;
pub(crate) mod claim;
pub(crate) mod conditions;
pub(crate) mod field;
pub mod mainstay_annotations;
pub mod metadata;
pub(crate) mod pod_template;
pub(crate) mod references;
pub(crate) mod text_set;
pub(crate) mod volume_sources;
pub(crate) mod workload;
