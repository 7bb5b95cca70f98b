"""The dialect /kraken: follows, users, channels and streams as Twitch's API v3 spoke of them."""
