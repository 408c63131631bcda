//! How tunnels spread over three servers: thousands are opened through the gateway, one server is killed under them, its
//! clients come back within seconds, it is started again, and some of all clients come anew.
//!
//! Gateway and servers are processes of this program's own. What each server holds is asked of the server itself, past the
//! gateway. Prints one line of JSON.

mod crowd;
mod house;

use std::rc::Rc;
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tokio::task::LocalSet;

use crate::args::{Args, Problem};
use crate::dial::Dial;
use crate::measure::{self, Peak};
use crowd::Crowd;
use house::House;

/// For all clients to be where they belong.
const PATIENCE: Duration = Duration::from_secs(300);
const LOOK_EVERY: Duration = Duration::from_millis(100);
/// Which server dies.
const VICTIM: usize = 1;

struct Plan {
    tunnels: usize,
    churn: usize,
    settle: Duration,
}

pub fn run(args: &mut Args) -> Result<(), Problem> {
    let gateway: String = args.required("gateway")?;
    let balance: String = args.or("balance", "least-connections".to_owned())?;
    let workers: usize = args.or("workers", 2)?;
    let plan = Plan {
        tunnels: args.or("tunnels", 9_000)?,
        churn: args.or("churn", 3_000)?,
        settle: Duration::from_secs_f64(args.or("settle", 2.5)?),
    };
    let jitter = Duration::from_secs_f64(args.or("jitter", 3.0)?);
    args.done()?;
    if plan.churn > plan.tunnels {
        return Err("--churn is at most --tunnels".into());
    }
    let mut house = House::start(&gateway, &balance, workers)?;
    let crowd = Rc::new(Crowd::new(Dial::clear(house.address()), jitter));
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let told = LocalSet::new().block_on(&runtime, story(&mut house, &crowd, &plan))?;
    let mut figures = json!({ "balance": balance, "workers": workers, "tunnels": plan.tunnels, "churn": plan.churn });
    figures["jitter_s"] = jitter.as_secs_f64().into();
    figures["told"] = told;
    println!("{figures}");
    Ok(())
}

async fn story(house: &mut House, crowd: &Rc<Crowd>, plan: &Plan) -> Result<Value, Problem> {
    let mut phases = vec![phase("started", house, 0).await?];
    let peak = Peak::watch(&[house.pid()]);

    crowd.open(plan.tunnels);
    all_there(house, crowd, plan).await?;
    phases.push(phase("opened", house, plan.tunnels).await?);

    let lost = house.tunnels().await?[VICTIM].unwrap_or_default();
    let failed = crowd.failed();
    house.kill(VICTIM);
    let killed = Instant::now();
    while crowd.cut() < lost && killed.elapsed() < PATIENCE {
        tokio::time::sleep(LOOK_EVERY).await;
    }
    let worst = all_there(house, crowd, plan).await?;
    let storm = json!({
        "lost": lost,
        "cut": crowd.cut(),
        "back_s": crowd.last_opened().saturating_duration_since(killed).as_secs_f64(),
        "failed_attempts": crowd.failed() - failed,
        "worst_percent": worst,
    });
    phases.push(phase("killed", house, plan.tunnels).await?);

    house.serve(VICTIM)?;
    // Whoever found it unreachable passes it over for a while yet.
    tokio::time::sleep(plan.settle).await;
    let failed = crowd.failed();
    crowd.churn(plan.churn);
    all_there(house, crowd, plan).await?;
    phases.push(phase("churned", house, plan.tunnels).await?);
    let churn = json!({ "failed_attempts": crowd.failed() - failed, "cut": crowd.cut() });

    crowd.leave();
    let leaving = Instant::now();
    while house.tunnels().await?.iter().flatten().sum::<usize>() > 0 {
        if leaving.elapsed() > PATIENCE {
            return Err("tunnels stayed when their clients had gone".into());
        }
        tokio::time::sleep(LOOK_EVERY).await;
    }
    // An allocator gives pages back in steps.
    tokio::time::sleep(plan.settle * 2).await;
    let peak = peak.stop();
    phases.push(phase("gone", house, 0).await?);
    Ok(json!({ "phases": phases, "storm": storm, "churn": churn, "peak_kib": peak }))
}

/// Waits until every client has its tunnel, and the servers know of all of them; the largest deviation meanwhile.
async fn all_there(house: &House, crowd: &Crowd, plan: &Plan) -> Result<f64, Problem> {
    let (began, mut worst) = (Instant::now(), 0.0_f64);
    loop {
        let held = house.tunnels().await?;
        worst = worst.max(deviation(&held));
        if crowd.open_now() == plan.tunnels && held.iter().flatten().sum::<usize>() == plan.tunnels {
            tokio::time::sleep(plan.settle).await;
            if crowd.open_now() == plan.tunnels {
                return Ok(worst);
            }
        }
        if began.elapsed() > PATIENCE {
            let (open, problem) = (crowd.open_now(), crowd.problem());
            return Err(format!("{open} of {} tunnels are open, servers have {held:?}; {problem}", plan.tunnels).into());
        }
        tokio::time::sleep(LOOK_EVERY).await;
    }
}

/// What there is at one moment.
async fn phase(name: &str, house: &House, open: usize) -> Result<Value, Problem> {
    let held = house.tunnels().await?;
    Ok(json!({
        "name": name,
        "open": open,
        "servers": held,
        "deviation_percent": deviation(&held),
        "pss_kib": measure::pss(&[house.pid()]),
        "descriptors": measure::descriptors(house.pid()),
    }))
}

/// How far the server that is furthest from it is from what each would have in an even spread, in percent of that.
fn deviation(held: &[Option<usize>]) -> f64 {
    let (count, sum) = held.iter().flatten().fold((0, 0), |(count, sum), held| (count + 1, sum + held));
    if sum == 0 {
        return 0.0;
    }
    let mean = sum as f64 / f64::from(count);
    held.iter().flatten().map(|held| (*held as f64 - mean).abs() / mean * 100.0).fold(0.0, f64::max)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_deviation_is_that_of_the_server_furthest_from_the_mean_of_those_that_are_there() {
        assert_eq!(deviation(&[Some(0), Some(0), Some(0)]), 0.0);
        assert_eq!(deviation(&[Some(10), None, Some(10)]), 0.0);
        assert_eq!(deviation(&[Some(8), Some(10), Some(12)]), 20.0);
        assert_eq!(deviation(&[Some(15), Some(15), Some(0)]), 100.0);
    }
}
