//! Power lost at every change of the disk, also while recovering from an earlier loss: whatever was
//! acknowledged is there, in order, and nothing that was never proposed.

use super::*;

/// Deterministic coin (xorshift).
struct Coin(u64);

impl Coin {
    fn toss(&mut self) -> bool {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 & 64 != 0
    }
}

/// What is known of the past: commands acknowledged, and the one that may or may not be there.
#[derive(Default)]
struct Past {
    acknowledged: Vec<Vec<u8>>,
    next: usize,
}

impl Past {
    /// Compares a replay with what was acknowledged; what is there from now on counts.
    fn check(&mut self, found: Vec<Vec<u8>>, when: &str) {
        assert!(found.starts_with(&self.acknowledged), "{when}: {} of {}", found.len(), self.acknowledged.len());
        let extra = &found[self.acknowledged.len()..];
        assert!(extra.len() <= 1 && extra.iter().all(|command| command.starts_with(b"command")), "{when}");
        self.acknowledged = found;
    }

    /// Proposes until the disk stops or enough is done.
    async fn work(&mut self, log: &TestLog) {
        for _ in 0..6 {
            self.next += 1;
            // Sizes that fill sectors, end in the middle of them, and span several.
            let payload = command(self.next, [30, 300, 1400, 5000][self.next % 4]);
            match log.propose(payload.clone()).await {
                Ok(_) => self.acknowledged.push(payload),
                Err(_) => return,
            }
        }
    }
}

#[tokio::test]
async fn power_lost_at_every_change() {
    for seed in 1..=4u64 {
        for stop in 0.. {
            let mut coin = Coin(seed * 0x9e37_79b9 + stop);
            let mut past = Past::default();
            let disk = MemDisk::default();
            let (log, _) = open(&disk);
            past.work(&log).await;
            log.stop();
            // The second run stops at a change, the third is cut short too, the fourth must be fine.
            let disk = run(&disk, Some(stop), &mut past, &mut coin).await;
            let Some(disk) = disk else {
                assert!(stop > 20, "the run has more changes than that");
                break;
            };
            let disk = run(&disk, Some(stop % 7), &mut past, &mut coin).await.expect("stopped");
            let (log, machine) = open(&disk);
            past.check(machine.commands(), &format!("seed {seed}, stop {stop}"));
            past.work(&log).await;
            log.stop();
            past.check(open(&disk.power_loss(|| coin.toss())).1.commands(), "after a clean stop");
        }
    }
}

/// Opens and works until the disk stops; what the power loss leaves. `None` if it never stopped.
async fn run(disk: &MemDisk, stop: Option<u64>, past: &mut Past, coin: &mut Coin) -> Option<MemDisk> {
    disk.stop_after(stop);
    if let Ok((log, machine)) = open_at(disk, Position::default()) {
        past.check(machine.commands(), "opened");
        past.work(&log).await;
        log.stop();
    }
    disk.is_stopped().then(|| disk.power_loss(|| coin.toss()))
}

/// Segments that a checkpoint dropped, and a reset, at every change.
#[tokio::test]
async fn power_lost_while_dropping_and_resetting() {
    let disk = MemDisk::default();
    let (log, machine) = open(&disk);
    for number in 0..60 {
        log.propose(command(number, 900)).await.expect("proposed");
    }
    log.stop();
    let all = machine.applied.lock().clone();
    let at = all[40].0;
    for stop in 0..40 {
        for seed in 1..=3 {
            let mut coin = Coin(seed * 77 + stop);
            let disk = disk.copy();
            let (log, _) = open_at(&disk, at).expect("opens");
            disk.stop_after(Some(stop));
            log.checkpointed(at.index);
            log.stop();
            let disk = disk.power_loss(|| coin.toss());
            let (log, machine) = open_at(&disk, at).expect("the checkpoint holds the rest");
            assert!(machine.applied.lock().starts_with(&all[41..]), "stop {stop}");
            log.stop();

            let ahead = Position::new(500, 9);
            disk.stop_after(Some(stop));
            drop(open_at(&disk, ahead));
            let disk = disk.power_loss(|| coin.toss());
            let (log, machine) = open_at(&disk, ahead).expect("reset, or again");
            assert_eq!(machine.commands().len(), 0, "stop {stop}");
            log.propose(command(99, 40)).await.expect("proposed");
            log.checkpointed(ahead.index);
            log.stop();
            assert_eq!(open_at(&disk, ahead).expect("opens").1.commands(), [command(99, 40)], "stop {stop}");
        }
    }
}
