"""What the name of a column says that it holds."""

import re
from unicodedata import combining, normalize

# as they are spelled without case, blanks and signs; the surer ones first
EXACT = {
    "user": (
        "userid user uid customerid customer clientid client memberid member visitorid visitor "
        "shopperid shopper buyerid buyer accountid account householdid householdkey household "
        "personid person profileid subscriberid subscriber listenerid reviewerid reviewer "
        "authorid steamid msno cookieid deviceid userno username useridx customerno cardid "
        "kundennr kundennummer kundenid kunde idclient clienteid cliente "
        "loyaltyid patientid studentid employeeid reader readerid viewerid viewer guestid userhash "
        "kaufer besteller nutzer nutzerid nutzernr benutzer benutzerid mitglied mitgliedsnr "
        "mitgliedsnummer acheteur utilisateur idutilisateur usuario idusuario comprador utente "
        "klant"
    ),
    "item": (
        "itemid item iid productid product sku skuid asin parentasin articleid article stockcode "
        "productcode productno goodsid goods movieid movie filmid film trackid track songid song "
        "artistid bookid book isbn gameid game appid app videoid video newsid storyid contentid "
        "content assetid listingid listing offerid beerid beer wineid recipeid recipe businessid "
        "gmapid placeid venueid poiid locationid hotelid restaurantid jobid courseid photoid "
        "materialid partno plu ean upc gtin upccode itemno itemcode animeid jokeid podcastid "
        "artikelnr artikelnummer artikelid artikel produktnr produktid productoid producto "
        "showid episodeid publicationid docid documentid merchantid brandid artist "
        "artnr artikelcode produkt produktcode warennummer produit idproduit codeproduit articulo "
        "idarticulo idproducto articolo prodotto produto idproduto"
    ),
    "time": (
        "timestamp time ts eventtime eventtimestamp datetime unixreviewtime reviewtime invoicedate "
        "orderdate purchasedate transactiondate tdat date createdat created createdtime "
        "creationdate occurredat happenedat boughtat purchasedat orderedat ratedat watchedat "
        "playedat viewedat clickedat clicktime eventdate orderpurchasetimestamp transactiontime "
        "transactiontimestamp orderedon servertime localtime timems unixtime epoch at when day "
        "datum zeitpunkt fecha reviewdate receivedat checkintime visittime starttime loggedat "
        "zeitstempel zeit datumzeit bestelldatum bestellzeitpunkt kaufdatum rechnungsdatum "
        "erstelltam bestelltam gekauftam horodatage dateachat datecommande fechahora dataora"
    ),
    "type": (
        "event eventtype eventname type action actiontype behavior behaviour behaviortype "
        "behaviourtype interaction interactiontype verb activity activitytype operation"
    ),
    "quantity": "quantity qty menge cantidad amount units count numitems itemqty orderqty anzahl "
    "stueck stuck stk quantite quantita quantidade aantal",
    "rating": "rating score stars overall rate grade reviewscore userrating bewertung sterne "
    "valoracion puntuacion",
}
_ORDER = {
    role: {name: place for place, name in enumerate(names.split())} for role, names in EXACT.items()
}
# words of longer names: last_customer_id, eventTimeUtc
WORDS = {
    "user": "user customer cust client member visitor shopper buyer household reviewer subscriber "
    "kunde kunden kundin kaufer nutzer benutzer cliente clientes usuario acheteur utilisateur",
    "item": "item product prod sku article stock movie track song book game video asin goods "
    "artikel produkt produit producto articulo prodotto produto",
    "time": "time timestamp date datetime ts datum zeit fecha",
}
_TITLES = {"name", "title"}
_DESCRIPTIONS = _TITLES | {
    *("description", "category", "price", "url", "genre", "country", "city", "gender", "age"),
    *("brand", "text", "comment", "ms", "seconds", "duration", "played", "popularity"),
}
_KEYS = {"id", "key", "code", "no", "nr", "num", "nummer", "numero", "codigo", "cod"}
BY_TITLE = 1.0  # the score of a name such as game-title, which may stand for a missing id


def without_accents(text: str) -> str:
    """Käufer -> Kaufer, numéro -> numero."""
    return "".join(c for c in normalize("NFKD", text) if not combining(c)).replace("ß", "ss")


def plain(name: str) -> str:
    """A name without case, signs, and the type that some tools write behind it (user_id:token)."""
    name = re.sub(r":(token|float|token_seq|float_seq)$", "", without_accents(name).strip(" ."))
    return re.sub(r"[^a-z0-9]", "", name.rpartition(".")[2].lower())


def words_of(name: str) -> list[str]:
    """last_customerId -> last, customer, id."""
    name = re.sub(r":\w+$", "", without_accents(name))
    spaced = re.sub(r"([a-z0-9])([A-Z])", r"\1 \2", name)
    return re.findall(r"[a-z]+|[0-9]+", spaced.lower())


def name_score(name: str, role: str) -> float:
    """How surely a name tells a role, 0..10: 10 for user_id, some 5 for last_customer, 0 for x."""
    known = _ORDER[role].get(plain(name))
    if known is not None:
        return 10 - 4 * known / len(_ORDER[role])
    words = set(words_of(name))
    if role not in WORDS or not set(WORDS[role].split()) & words:
        return 0.0
    if role != "time" and (described := _described(name)):
        return BY_TITLE if described <= _TITLES else 0.0
    return 5.0 if role == "time" or _KEYS & words else 3.0


def is_description(name: str) -> bool:
    """Whether a name is that of what people read: a title, a country, a price."""
    return bool(_described(name))


def _described(name: str) -> set[str]:
    return _DESCRIPTIONS.intersection(words_of(name.rpartition(".")[2]))


def role_of(name: str) -> str | None:
    """The role that a name tells most surely; None for a name that tells none."""
    scores = {role: name_score(name, role) for role in EXACT}
    best = max(scores, key=lambda role: scores[role])
    return best if scores[best] > 0 else None
