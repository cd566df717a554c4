//! Every change of a cluster directory: under its lock, on what it holds then, durable before it is told.

use super::*;

impl Membership {
    /// Do something under the lock, on what the directory holds now.
    fn changing<T>(
        &mut self,
        work: impl FnOnce(&mut Membership) -> Result<T, MembershipError>,
    ) -> Result<T, MembershipError> {
        let _lock = files::lock(&self.directory)?;
        self.reload()?;
        work(self)
    }

    /// Make a new key and certificate for this node.
    ///
    /// # Errors
    /// The authority's key is not here, or the system refuses. The old ones stay then.
    pub fn renew_certificate(&mut self, now: SystemTime) -> Result<(), MembershipError> {
        self.changing(|membership| {
            let uri = node_uri(membership.description.id, &membership.name, membership.node);
            let issued = membership.load_authority()?.issue(&membership.name, &uri, now)?;
            let pem = node_pem(&issued.key, &issued.certificate);
            files::replace(&membership.directory, NODE, pem.as_bytes())?;
            membership.reload()
        })
    }

    /// Renew this node's certificate if two thirds of its time are over, and this node can; whether it was renewed.
    ///
    /// # Errors
    /// As [`Membership::renew_certificate`].
    pub fn renew_if_due(&mut self, now: SystemTime) -> Result<bool, MembershipError> {
        let expiry = self.expiry(now)?;
        if !expiry.renewable || !expiry.node.is_due(now) || !useful(&expiry, now) {
            return Ok(false);
        }
        self.renew_certificate(now)?;
        Ok(true)
    }

    /// Begin to rotate the shared secret (or go on with a rotation under way): what the peer is to take. Until
    /// [`Membership::confirm_secret`] this node sends with the old one and accepts both.
    ///
    /// # Errors
    /// The system refuses.
    pub fn propose_secret(&mut self) -> Result<Offer, MembershipError> {
        let fresh = Secret::random()?;
        self.change_secrets(|secrets| secrets.propose(fresh))
    }

    /// Take a secret that the peer offers.
    ///
    /// # Errors
    /// It is older than this node's, or has to give way to it.
    pub fn take_secret(&mut self, offer: Offer) -> Result<Taken, MembershipError> {
        self.change_secrets(|secrets| secrets.take(offer))
    }

    /// The peer has the secret of this number: send with it from now on.
    ///
    /// # Errors
    /// It was not offered.
    pub fn confirm_secret(&mut self, number: u64) -> Result<(), MembershipError> {
        self.change_secrets(|secrets| secrets.confirm(number))
    }

    /// Forget the previous secret, once both nodes are known to send with the current one; whether there was one.
    ///
    /// # Errors
    /// The system refuses.
    pub fn retire_secret(&mut self) -> Result<bool, MembershipError> {
        self.change_secrets(|secrets| Ok(secrets.retire()))
    }

    fn change_secrets<T>(
        &mut self,
        work: impl FnOnce(&mut Secrets) -> Result<T, super::super::SecretError>,
    ) -> Result<T, MembershipError> {
        self.changing(|membership| {
            let mut changed = membership.secrets.clone();
            let result = work(&mut changed)?;
            if changed != membership.secrets {
                files::replace(&membership.directory, SECRETS, &changed.encode())?;
                membership.secrets = changed;
            }
            Ok(result)
        })
    }

    /// Make a key file anew from the current secret. On both nodes, with the same secret, while nobody uses the old one.
    ///
    /// # Errors
    /// The system refuses; the old one stays then.
    pub fn rekey(&mut self, file: KeyFile) -> Result<(), MembershipError> {
        self.changing(|membership| {
            let key = membership.secrets.file_key(file);
            files::replace(&membership.directory, file.name(), &key_text(&key))
        })
    }

    /// Change the description; its version grows by one. To be offered to the peer afterwards.
    ///
    /// # Errors
    /// The changed one does not make sense, or it is not this cluster's and node's any more. The old one stays then.
    pub fn change_description(
        &mut self,
        change: impl FnOnce(&mut Description),
    ) -> Result<Stamp, MembershipError> {
        self.changing(|membership| {
            let mut changed = membership.description.clone();
            change(&mut changed);
            changed.version = membership.description.version.saturating_add(1);
            membership.keep_description(changed)?;
            Ok(membership.description.stamp()?)
        })
    }

    /// Take a description that the peer offers, if it is newer than this node's.
    ///
    /// # Errors
    /// It is no description, or not one of this cluster with this node in it.
    pub fn adopt_description(&mut self, text: &str) -> Result<Adoption, MembershipError> {
        let offered = Description::parse(text)?;
        self.changing(|membership| {
            let (own, other) = (membership.description.stamp()?, offered.stamp()?);
            if other == own {
                return Ok(Adoption::Same);
            }
            if other < own {
                return Ok(Adoption::Older);
            }
            membership.keep_description(offered)?;
            Ok(Adoption::Taken)
        })
    }

    /// Put a description in place of the one before.
    fn keep_description(&mut self, description: Description) -> Result<(), MembershipError> {
        description.check()?;
        let (found, expected) = (description.id, self.description.id);
        if found != expected || description.authority != self.description.authority {
            return Err(MembershipError::OtherCluster { found, expected });
        }
        if description.node(&self.name).is_none_or(|node| node.id != self.node) {
            return Err(MembershipError::NotInDescription { node: self.name.clone() });
        }
        files::replace(&self.directory, DESCRIPTION, description.to_text()?.as_bytes())?;
        self.description = description;
        Ok(())
    }

    /// Issue a token with which the other node can join once; the one before is worth nothing from then on.
    ///
    /// # Errors
    /// The cluster is full, the authority's key is not here, or the order makes no sense.
    pub fn issue_token(&mut self, order: TokenOrder, now: SystemTime) -> Result<Token, MembershipError> {
        let TokenOrder { addresses, lifetime, replaces } = order;
        if !(1..=ADDRESSES_MAX).contains(&addresses.len()) || !addresses.iter().all(is_dialable) {
            return Err(MembershipError::TokenAddresses { count: addresses.len() });
        }
        self.changing(|membership| {
            // A token that could not be redeemed is better not given away.
            membership.load_authority()?;
            membership.check_room(replaces.as_deref())?;
            let mut secret = Zeroizing::new([0; 16]);
            getrandom::fill(&mut *secret)?;
            let token = Token {
                cluster: membership.description.id,
                authority: membership.description.authority,
                expires: seconds(now).saturating_add(lifetime.as_secs()),
                addresses,
                secret,
            };
            Pending::of(&token, now, replaces).write(&membership.directory)?;
            Ok(token)
        })
    }

    /// Whether another node can become a member, in the place of one if need be.
    fn check_room(&self, replaces: Option<&str>) -> Result<(), MembershipError> {
        match (self.peer(), replaces) {
            (None, None) => Ok(()),
            (Some(peer), None) => {
                let present = format!("{} and {}", self.name, peer.name);
                Err(MembershipError::Full { present })
            }
            (Some(peer), Some(name)) if peer.name == name => Ok(()),
            (peer, Some(name)) => Err(MembershipError::NotReplaceable {
                name: name.to_owned(),
                other: peer.map_or_else(|| "nobody".to_owned(), |peer| peer.name.clone()),
            }),
        }
    }

    /// Use up the token that waits, if it still is the one that was judged: from here on nobody else can use it.
    pub(in super::super) fn consume_token(
        &mut self,
        is_it: impl FnOnce(&Pending) -> bool,
    ) -> Result<Option<Pending>, MembershipError> {
        self.changing(|membership| match Pending::read(&membership.directory)? {
            Some(pending) if is_it(&pending) => {
                files::remove(&membership.directory, files::TOKEN)?;
                Ok(Some(pending))
            }
            _ => Ok(None),
        })
    }

    /// What the description would be with a node that joins.
    pub(in super::super) fn with_node(
        &self,
        node: Node,
        replaces: Option<&str>,
    ) -> Result<Description, MembershipError> {
        self.check_room(replaces)?;
        let mut description = self.description.clone();
        description.version = description.version.saturating_add(1);
        description.nodes.retain(|present| present.name == self.name);
        description.nodes.push(node);
        debug_assert!(description.nodes.len() <= NODES_MAX);
        description.check()?;
        Ok(description)
    }

    /// Make a joining node a member: its certificate, and everything a member has. The description with it is durable before.
    pub(in super::super) fn admit(
        &mut self,
        node: Node,
        replaces: Option<&str>,
        request: &rcgen::CertificateSigningRequestParams,
        now: SystemTime,
    ) -> Result<Content, MembershipError> {
        self.changing(|membership| {
            let description = membership.with_node(node.clone(), replaces)?;
            let uri = node_uri(description.id, &node.name, node.id);
            let certificate = membership.load_authority()?.certify_request(request, &node.name, &uri, now)?;
            let text = |name| membership.text_of(name);
            let content = Content {
                description: description.to_text()?,
                authority: text(AUTHORITY)?.to_string(),
                authority_key: text(AUTHORITY_KEY)?,
                node: Zeroizing::new(certificate),
                secrets: membership.secrets.encode(),
                mirror_key: membership.key_file(KeyFile::Mirror)?.1,
                witness_key: membership.key_file(KeyFile::Witness)?.1,
            };
            membership.keep_description(description)?;
            Ok(content)
        })
    }

    fn text_of(&self, name: &str) -> Result<Zeroizing<String>, MembershipError> {
        let damaged =
            || MembershipError::Damaged { path: self.directory.join(name), why: "it is not text".to_owned() };
        let bytes = files::read(&self.directory, name)?.ok_or_else(damaged)?;
        std::str::from_utf8(&bytes).map(|text| Zeroizing::new(text.to_owned())).map_err(|_| damaged())
    }
}

/// Whether a new certificate would be valid longer than the one there is: not if both end with the authority's.
fn useful(expiry: &Expiry, now: SystemTime) -> bool {
    expiry.node.not_after < expiry.authority.not_after || now < expiry.node.not_before
}
