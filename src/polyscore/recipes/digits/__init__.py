"""Written and spoken digits: the codecs, the judges and the joint model that ship with polyscore."""
