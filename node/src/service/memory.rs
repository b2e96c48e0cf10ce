//! Gives memory back that a burst of work left behind.
//!
//! The C library keeps what was freed: after a flood of large frames or bodies the process would
//! stay as large as it was in it.

use std::time::Duration;

/// Between two looks at how large the process is. A look reads one line.
const LOOK: Duration = Duration::from_secs(3);
/// What it may have grown by since the last time without anything being done, in hundredths.
const GROWN: u64 = 103;
/// Times that memory is given back once the process has grown: what made it grow may end later.
const TIMES: u32 = 4;

/// Looks for as long as the node runs; where the system does not say, once.
pub async fn give_back() {
    // What the start itself left behind goes at the first looks.
    let (mut least, mut times) = (0, TIMES);
    let mut look = tokio::time::interval(LOOK);
    loop {
        look.tick().await;
        let Some(now) = resident() else { return };
        if now / 100 > least / GROWN {
            times = TIMES;
        }
        least = match times {
            0 => least.min(now),
            _ => {
                times -= 1;
                // It holds locks of the allocator for some milliseconds.
                let _ = tokio::task::spawn_blocking(kernels::heap::trim).await;
                resident().unwrap_or(now)
            }
        };
    }
}

/// Resident memory of this process. Pages.
fn resident() -> Option<u64> {
    let text = std::fs::read_to_string("/proc/self/statm").ok()?;
    text.split_whitespace().nth(1)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    #[tokio::test]
    async fn what_a_burst_of_work_left_behind_goes_back_to_the_system() {
        let looking = tokio::spawn(give_back());
        // Its first look.
        tokio::time::sleep(LOOK / 10).await;
        let before = resident().unwrap();
        // Small pieces, which the C library keeps when they are freed, below one that stays.
        let mut pieces: Vec<Vec<u8>> = (0..60_000).map(|n| vec![n as u8; 1_000]).collect();
        let last = pieces.pop();
        drop(pieces);
        let kept = resident().unwrap();
        assert!(kept > before + 10_000, "{before} and {kept} pages");
        let gone = async {
            while resident().unwrap() > before + 5_000 {
                tokio::time::sleep(LOOK / 30).await;
            }
        };
        tokio::time::timeout(LOOK * 10, gone).await.unwrap();
        looking.abort();
        drop(last);
    }
}
