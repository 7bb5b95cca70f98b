"""The dialect /kraken: follows, users, channels and streams in the form of Twitch's API v3."""
