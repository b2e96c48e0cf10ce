//! The child process that renders chat templates, by itself: for the tests of `kernels`.
//! A node starts itself instead.

fn main() -> std::io::Result<()> {
    kernels::serve_renders()
}
