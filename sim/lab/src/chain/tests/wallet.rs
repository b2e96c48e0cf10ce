//! A one-key wallet for the chain's tests: P2WPKH and P2TR key path.

use bitcoin::absolute::LockTime;
use bitcoin::hashes::Hash;
use bitcoin::key::{CompressedPublicKey, Keypair, Secp256k1, TapTweak};
use bitcoin::secp256k1::{All, Message, SecretKey};
use bitcoin::sighash::{EcdsaSighashType, Prevouts, SighashCache, TapSighashType};
use bitcoin::transaction::Version;
use bitcoin::{
    Amount, OutPoint, ScriptBuf, Sequence, Transaction, TxIn, TxOut, WPubkeyHash, Witness,
};

pub(super) struct Wallet {
    secp: Secp256k1<All>,
    pair: Keypair,
}

impl Wallet {
    pub(super) fn new() -> Self {
        let secp = Secp256k1::new();
        let secret = SecretKey::from_slice(&[7; 32]).unwrap();
        let pair = Keypair::from_secret_key(&secp, &secret);
        Self { secp, pair }
    }

    pub(super) fn segwit_script(&self) -> ScriptBuf {
        ScriptBuf::new_p2wpkh(&CompressedPublicKey(self.pair.public_key()).wpubkey_hash())
    }

    pub(super) fn taproot_script(&self) -> ScriptBuf {
        ScriptBuf::new_p2tr(&self.secp, self.pair.x_only_public_key().0, None)
    }

    /// A script that this wallet cannot spend.
    pub(super) fn foreign_script(&self) -> ScriptBuf {
        ScriptBuf::new_p2wpkh(&WPubkeyHash::from_byte_array([9; 20]))
    }

    /// One output back to the wallet, `fee` sat less than the coins bring.
    pub(super) fn pay(&self, coins: &[(OutPoint, TxOut)], fee: u64) -> Vec<TxOut> {
        let total: Amount = coins.iter().map(|(_, txout)| txout.value).sum();
        vec![TxOut {
            value: total - Amount::from_sat(fee),
            script_pubkey: self.segwit_script(),
        }]
    }

    pub(super) fn spend(&self, coins: &[(OutPoint, TxOut)], outputs: Vec<TxOut>) -> Transaction {
        let sequence = Sequence::ENABLE_RBF_NO_LOCKTIME;
        self.spend_with(coins, outputs, LockTime::ZERO, sequence)
    }

    pub(super) fn spend_with(
        &self,
        coins: &[(OutPoint, TxOut)],
        output: Vec<TxOut>,
        lock_time: LockTime,
        sequence: Sequence,
    ) -> Transaction {
        let input = coins
            .iter()
            .map(|(previous_output, _)| TxIn {
                previous_output: *previous_output,
                script_sig: ScriptBuf::new(),
                sequence,
                witness: Witness::new(),
            })
            .collect();
        let mut tx = Transaction {
            version: Version::TWO,
            lock_time,
            input,
            output,
        };
        let spent: Vec<TxOut> = coins.iter().map(|(_, txout)| txout.clone()).collect();
        for index in 0..spent.len() {
            tx.input[index].witness = self.sign(&tx, index, &spent);
        }
        tx
    }

    fn sign(&self, tx: &Transaction, index: usize, spent: &[TxOut]) -> Witness {
        let mut cache = SighashCache::new(tx);
        let coin = &spent[index];
        if coin.script_pubkey.is_p2tr() {
            let hash = cache
                .taproot_key_spend_signature_hash(
                    index,
                    &Prevouts::All(spent),
                    TapSighashType::Default,
                )
                .unwrap();
            let tweaked = self.pair.tap_tweak(&self.secp, None).to_keypair();
            let message = Message::from_digest(hash.to_byte_array());
            let signature = self.secp.sign_schnorr_no_aux_rand(&message, &tweaked);
            return Witness::from_slice(&[signature.as_ref()]);
        }
        let hash = cache
            .p2wpkh_signature_hash(
                index,
                &coin.script_pubkey,
                coin.value,
                EcdsaSighashType::All,
            )
            .unwrap();
        let message = Message::from_digest(hash.to_byte_array());
        let signature = self.secp.sign_ecdsa(&message, &self.pair.secret_key());
        Witness::p2wpkh(
            &bitcoin::ecdsa::Signature::sighash_all(signature),
            &self.pair.public_key(),
        )
    }
}
