//! Who else has a say in what is written: which webhooks are asked about a request and what is
//! made of their answers; which policies hold for it and what they say. Pure: calling a webhook is
//! the API server's.

mod expressions;
mod matching;
mod policy;
mod request;
mod review;
mod webhook;

pub use expressions::Expressions;
pub use matching::Target;
pub use policy::{Judgement, PluralOf, Policies};
pub use request::Request;
pub use resource_kinds::Scope;
pub use review::{Verdict, review, verdict};
pub use webhook::{Client, Webhook, webhooks};
