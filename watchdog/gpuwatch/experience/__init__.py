"""What we have seen of machines ourselves: folded from the ledger (`facts`), judged (`judge`), kept (`book`)."""
