//! What an operator does to a gateway while thousands talk through it: reloads, another certificate, another program in its
//! place, a drain. Counted are messages that did not come back, tunnels that ended without a Close, connects that were
//! refused, and what a bystander's echo took; memory and descriptors stand beside them.
//!
//! Gateway and server are processes of this program's own. Prints one line of JSON.

mod house;
mod strangers;
mod talkers;

use std::rc::Rc;
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tokio::task::LocalSet;

use crate::args::{Args, Problem};
use crate::dial::Dial;
use crate::measure;
use house::House;
use strangers::{Bystanders, Newcomers};
use talkers::Talkers;

const PATIENCE: Duration = Duration::from_secs(180);
const LOOK_EVERY: Duration = Duration::from_millis(50);
const NEWCOMERS: usize = 4;
const BYSTANDERS: usize = 10;

struct Plan {
    tunnels: usize,
    reloads: usize,
    rate: f64,
    phase: Duration,
    over: Duration,
}

struct Story {
    house: House,
    talkers: Rc<Talkers>,
    newcomers: Rc<Newcomers>,
    bystanders: Rc<Bystanders>,
    /// Whose memory is told: the process that was started, then the one that took over.
    pid: u32,
    phases: Vec<Value>,
    began: Instant,
}

pub fn run(args: &mut Args) -> Result<(), Problem> {
    let gateway: String = args.required("gateway")?;
    let workers: usize = args.or("workers", 2)?;
    let plan = Plan {
        tunnels: args.or("tunnels", 5_000)?,
        reloads: args.or("reloads", 50)?,
        rate: args.or("rate", 2_000.0)?,
        phase: Duration::from_secs_f64(args.or("seconds", 5.0)?),
        over: Duration::from_secs(args.or("over", 20)?),
    };
    args.done()?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let phases = LocalSet::new().block_on(&runtime, async {
        let drain_rate = (plan.tunnels as f64 / plan.over.as_secs_f64()).ceil() as u32;
        let house = House::start(&gateway, workers, drain_rate)?;
        let mut story = Story::begin(house, &plan)?;
        story.tell(&plan).await?;
        Ok::<_, Problem>(story.phases)
    })?;
    let figures = json!({
        "tunnels": plan.tunnels, "reloads": plan.reloads, "rate": plan.rate, "workers": workers,
        "over_s": plan.over.as_secs(), "phases": phases,
    });
    println!("{figures}");
    Ok(())
}

impl Story {
    fn begin(house: House, plan: &Plan) -> Result<Self, Problem> {
        let [clear, secure] = house.addresses();
        let dials = [Dial::clear(clear), Dial::secure(secure, &house.authorities())?];
        Ok(Self {
            pid: house.pid(),
            talkers: Talkers::new(dials.clone(), plan.tunnels, plan.rate, plan.over / 4),
            newcomers: Newcomers::new(dials.clone(), NEWCOMERS),
            bystanders: Bystanders::new(dials, BYSTANDERS)?,
            phases: Vec::new(),
            began: Instant::now(),
            house,
        })
    }

    async fn tell(&mut self, plan: &Plan) -> Result<(), Problem> {
        self.all_open(plan).await?;
        self.start_phase();
        self.talkers.talk(true);
        tokio::time::sleep(plan.phase).await;
        self.end_phase("before", 0).await?;

        for _ in 0..plan.reloads {
            let next = Instant::now() + plan.phase * 2 / plan.reloads as u32;
            self.house.reload().await?;
            tokio::time::sleep(next.saturating_duration_since(Instant::now())).await;
        }
        self.end_phase("reloads", plan.reloads).await?;

        self.house.renew().await?;
        self.newcomers.expect(self.house.certificate()?);
        tokio::time::sleep(plan.phase).await;
        self.end_phase("certificate", 1).await?;

        // The old process closes its tunnels at its rate, and ends after the last of them.
        self.pid = self.house.upgrade().await?;
        let first = self.wait("the first process has not ended", |story| story.house.first_ended()).await?;
        if first != Some(0) {
            return Err(format!("the first process ended with {first:?}").into());
        }
        self.all_open(plan).await?;
        self.end_phase("upgrade", 1).await?;

        let before = self.closed();
        self.house.drain(plan.over).await?;
        self.wait("the drain has not ended", |story| (story.closed() >= before + plan.tunnels as u64).then_some(()))
            .await?;
        self.all_open(plan).await?;
        self.end_phase("drain", 1).await?;

        // Whoever leaves has heard all that he waits for: both hashes are over then.
        self.talkers.talk(false);
        self.wait("messages have not come back", |story| (story.talkers.totals.outstanding.get() == 0).then_some(()))
            .await?;
        self.talkers.leave();
        self.wait("clients have not left", |story| (story.talkers.totals.open.get() == 0).then_some(())).await?;
        tokio::time::sleep(plan.phase).await;
        self.end_phase("gone", 1).await
    }

    /// Closes that talkers have heard.
    fn closed(&self) -> u64 {
        self.talkers.totals.closes.borrow().values().sum()
    }

    async fn wait<T>(&mut self, problem: &str, mut found: impl FnMut(&mut Self) -> Option<T>) -> Result<T, Problem> {
        let began = Instant::now();
        loop {
            if let Some(found) = found(self) {
                return Ok(found);
            }
            if began.elapsed() > PATIENCE {
                return Err(format!("{problem}; {}", self.talkers.totals.problem.borrow()).into());
            }
            tokio::time::sleep(LOOK_EVERY).await;
        }
    }

    async fn all_open(&mut self, plan: &Plan) -> Result<(), Problem> {
        let all = plan.tunnels;
        self.wait("not all tunnels are open", |story| (story.talkers.totals.open.get() == all).then_some(())).await
    }

    fn start_phase(&mut self) {
        self.newcomers.told();
        self.bystanders.told();
        self.began = Instant::now();
    }

    /// Everybody falls silent until all has come back; then what there was is written down.
    async fn end_phase(&mut self, name: &str, times: usize) -> Result<(), Problem> {
        let seconds = self.began.elapsed().as_secs_f64();
        let (newcomers, bystanders) = (self.newcomers.told(), self.bystanders.told());
        self.talkers.talk(false);
        let silent = Instant::now();
        let totals = &self.talkers.totals;
        while totals.outstanding.get() > 0 && silent.elapsed() < PATIENCE / 9 {
            tokio::time::sleep(LOOK_EVERY).await;
        }
        self.phases.push(json!({
            "name": name, "times": times, "seconds": seconds, "open": totals.open.get(),
            "sent": totals.sent.get(), "sent_bytes": totals.sent_bytes.get(), "back": totals.back.get(),
            "missing": totals.outstanding.get(), "damaged": totals.damaged.get(), "lost": totals.lost.get(),
            "problem": *totals.problem.borrow(), "closes": *totals.closes.borrow(), "in_flight": totals.in_flight.get(),
            "failed": totals.failed.get(), "unequal": totals.unequal.get(),
            "newcomers": newcomers, "bystanders": bystanders,
            "pss_kib": measure::pss(&[self.pid]), "descriptors": measure::descriptors(self.pid),
        }));
        self.talkers.talk(true);
        self.start_phase();
        Ok(())
    }
}
