//! Server-side apply as its documentation describes it (kubectl.md 0.7, 2.4).

mod bench;
mod custom;
mod managers;
mod merging;
mod overlay;
mod ownership;
mod versions;
