//! Admission: plug-ins, webhooks and policies that check or change an object before it is stored.

pub(crate) mod configuration;
pub(crate) mod default_account;
pub(crate) mod dynamic_admission;
pub(crate) mod kind_types;
pub(crate) mod plugins;

pub(crate) use dynamic_admission::Admission;
