//! How much goes wrong in one history.

use strandline_core::FlushMode;

use super::network::Weather;
use crate::random::Random;

/// How often something happens: in one of so many steps; 0 is never.
#[derive(Clone, Copy, Debug)]
pub struct Plan {
    pub kill: u64,
    pub power: u64,
    pub blackout: u64,
    pub partition: u64,
    pub heal: u64,
    pub start: u64,
    pub move_leader: u64,
    pub switch_flush: u64,
    pub switch_min_isr: u64,
    pub learn: u64,
    pub weather: Weather,
    /// What the topic begins with.
    pub flush: FlushMode,
    pub spares: Spares,
}

/// Who never loses power.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Spares {
    Nobody,
    /// Whoever is alone in sync: nothing is lost for good then.
    LastInSync,
}

impl Plan {
    pub fn new(random: &mut Random) -> Self {
        let mut plan = Self::any(random);
        match random.below(5) {
            0 | 1 => {
                // Leaders come and go while what was sent to them is still on its way.
                plan.move_leader = random.within(5..20);
                plan.learn = random.within(3..12);
                plan.weather.slow = random.within(50..300);
            }
            2 => {
                // Brokers lose power and are back before what was asked for them is decided.
                plan.power = random.within(10..40);
                plan.start = random.within(2..6);
                plan.kill = random.within(20..80);
                plan.move_leader = random.within(8..30);
                plan.weather.slow = random.within(150..400);
                (plan.partition, plan.blackout, plan.switch_min_isr) = (0, 0, 0);
                plan.flush = FlushMode::Async;
                plan.spares = Spares::LastInSync;
            }
            _ => {}
        }
        if !random.one_in(3) {
            plan.switch_flush = 0;
        }
        plan
    }

    fn any(random: &mut Random) -> Self {
        let mut rate = |often: u64| match random.below(4) {
            0 => 0,
            1 => often * 5,
            _ => often,
        };
        Self {
            kill: rate(120),
            power: rate(120),
            blackout: rate(500),
            partition: rate(80),
            heal: 25,
            start: 15,
            move_leader: rate(60),
            switch_flush: rate(800),
            switch_min_isr: rate(400),
            learn: 4,
            weather: Weather {
                lost: random.below(4) * 20,
                slow: random.below(4) * 20,
            },
            flush: if random.one_in(3) {
                FlushMode::Async
            } else {
                FlushMode::Ack
            },
            spares: Spares::Nobody,
        }
    }

    pub fn quiet() -> Self {
        Self {
            kill: 0,
            power: 0,
            blackout: 0,
            partition: 0,
            heal: 1,
            start: 1,
            move_leader: 0,
            switch_flush: 0,
            switch_min_isr: 0,
            learn: 2,
            weather: Weather::default(),
            flush: FlushMode::Ack,
            spares: Spares::Nobody,
        }
    }
}
