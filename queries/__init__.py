"""Redis views become answers: no HTTP and no SQL here."""
