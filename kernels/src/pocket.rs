//! The small model that travels inside the binary.
//!
//! A toy of two million weights, trained by [`crate::train`] on text that the project
//! generates about itself, so that the demo and the tests have real weights without a
//! download. See `kernels/pocket/README.md` for what it can and cannot do. Called by the node
//! and by tests.

/// The bytes of the model's GGUF file.
pub fn pocket() -> &'static [u8] {
    include_bytes!("../pocket/pocket.gguf")
}

#[cfg(test)]
mod tests {
    use super::pocket;
    use crate::gguf::Gguf;
    use crate::tokenizer::Tokenizer;

    #[test]
    fn the_readme_names_the_size_and_the_digest_of_the_file() {
        let readme = include_str!("../pocket/README.md");
        assert!(readme.contains(blake3::hash(pocket()).to_hex().as_str()));
        assert!(readme.contains(&format!("{} bytes", pocket().len())));
    }

    #[test]
    fn the_file_is_a_qwen3_model_with_a_vocabulary_and_a_chat_template() {
        let file = Gguf::from_bytes(pocket()).expect("the shipped file");
        assert_eq!(file.str("general.architecture").ok(), Some("qwen3"));
        assert!(
            file.str("tokenizer.chat_template")
                .is_ok_and(|t| t.contains("<|im_start|>"))
        );
        assert!(file.tensors().iter().all(|t| t.row_len() % 32 == 0));
        let tokenizer = Tokenizer::from_gguf(&file).expect("the shipped vocabulary");
        // A common word is one token: the merges are in use.
        assert_eq!(tokenizer.encode(" freehold", false).len(), 1);
    }
}
