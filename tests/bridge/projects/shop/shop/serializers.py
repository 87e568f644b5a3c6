class OfferSerializer:
    """What replicas get of an offer: plain values, the city's name among them."""

    def __init__(self, offer):
        self.offer = offer

    @property
    def data(self):
        return {
            "id": self.offer.pk,
            "title": self.offer.title,
            "city_name": self.offer.city.name,
            "cents": int(self.offer.price * 100),
        }
