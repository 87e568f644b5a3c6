"""Serializers as one writes them for django-cqrs: of Django REST framework, and a plain class with ``data``."""

from __future__ import annotations

from rest_framework import serializers

from tests.parity.masters import models


class PublisherSerializer(serializers.ModelSerializer):
    class Meta:
        model = models.Publisher
        fields = ["id", "name"]


class BookSerializer(serializers.ModelSerializer):
    class Meta:
        model = models.Book
        fields = ["id", "title"]


class AuthorSerializer(serializers.ModelSerializer):
    publisher = PublisherSerializer()
    books = BookSerializer(many=True)

    class Meta:
        model = models.Author
        fields = ["id", "name", "publisher", "books"]


class PersonSerializer:
    def __init__(self, instance):
        self.instance = instance

    @property
    def data(self):
        return {"id": self.instance.id, "full_name": f"{self.instance.first_name} {self.instance.last_name}"}
