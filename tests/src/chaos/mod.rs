//! Real clusters on this machine that are hurt, and what they must stand.
//!
//! **Owns** the harness of `strandline-chaos`: brokers behind proxies ([`proxy`], [`node`],
//! [`stage`]), a load whose every record is in a history ([`event`], [`load`]), what is done to
//! brokers, and a checker that reads the history and nothing else ([`checker`]).

pub mod checker;
pub mod copies;
pub mod event;
pub mod failover;
pub mod faults;
pub mod load;
pub mod node;
pub mod power;
pub mod proxy;
pub mod recorder;
pub mod rolling;
pub mod rot;
pub mod run;
pub mod scale;
pub mod served;
pub mod stage;
pub mod stalls;
